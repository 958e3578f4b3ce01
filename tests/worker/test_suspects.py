"""A job under which workers died runs when its process holds nothing else that could be lost with it."""

import pytest

from taskq import App, current
from taskq.events import JobAgain
from taskq.job import Nack
from tests.worker.moves import heard

pytestmark = pytest.mark.anyio

QUEUE = "default"


async def lose_all(app: App, jobs: int, times: int) -> None:
    """Let as many leases of all jobs end unsettled, and make the jobs ready again."""
    for _ in range(times):
        lost = await app.backend.broker.fetch([QUEUE], jobs, lease=0.02, wait=5.0)
        assert len(lost) == jobs
    back = await app.backend.broker.fetch([QUEUE], jobs, lease=30.0, wait=5.0)
    assert [delivery.losses for delivery in back] == [times] * jobs
    await app.backend.broker.settle([Nack(delivery.receipt, 0.0, counted=False) for delivery in back])


async def leased(app: App) -> int:
    return sum(queue.leased for queue in await app.admin.stats([QUEUE]))


async def test_a_suspect_begins_when_nothing_else_is_held(url: str) -> None:
    app = App(url)
    beside: list[int] = []
    healthy: list[int] = []

    @app.task(idempotent=True)
    async def look() -> None:
        (beside if current().losses else healthy).append(await leased(app))

    async with app:
        await app.defer_many(look.call() for _ in range(4))
        await lose_all(app, 4, times=2)
        await app.defer_many(look.call() for _ in range(4))
        await app.run_worker(until="idle", slots=10)
    assert beside == [1] * 4
    assert len(healthy) == 4


async def test_an_at_most_once_job_that_makes_way_for_a_suspect_runs_later(url: str) -> None:
    app = App(url)
    ran: list[str] = []
    again = heard(app, JobAgain)

    @app.task(idempotent=True)
    async def suspect() -> None:
        ran.append("suspect")

    @app.task(delivery="at_most_once")
    async def once() -> None:
        ran.append("once")

    async with app:
        await suspect.defer()
        await lose_all(app, 1, times=2)
        await once.defer()
        await app.run_worker(until="idle", slots=10)
        assert not await app.admin.list_jobs(QUEUE, "dead", after=None, limit=10)
    assert sorted(ran) == ["once", "suspect"]
    assert {event.reason for event in again} == {"it makes way for a job under which workers died"}
