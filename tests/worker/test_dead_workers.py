"""AS-02, AS-10 and AS-11 where a worker's death is that nobody settles: on memory there is no other.

The same stories with killed processes are in ``tests/e2e/test_kill.py``.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from taskq import App, current
from taskq.broker import Guarantee
from taskq.outcome import Interrupted
from taskq.report import read_outcome
from taskq.worker.worker import Worker
from tests.worker.moves import lose, wait_until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def doomed(app: App, jobs: int) -> AsyncGenerator[Worker]:
    """A worker that stops in the middle of its jobs: nothing is settled or given back, and then the leases end."""
    async with app.working(slots=jobs) as worker:
        yield worker
        runs = list(worker.running)
        assert len(runs) == jobs
        worker.abandon()
        for run in runs:
            run.lost = True
            run.ask(Interrupted())
    await app.backend.broker.extend([run.delivery.receipt for run in runs], 0)


async def test_as_02_a_newsletter_whose_worker_died_does_not_stay_at_sending(url: str) -> None:
    app = App(url)
    status = dict.fromkeys(range(20), "draft")

    @app.task(idempotent=True, keep=60)
    async def send(letter: int) -> None:
        status[letter] = "sending"
        if not current().losses:
            await wait_until(lambda: False)
        status[letter] = "sent"

    async with app:
        handles = await app.defer_many(send.call(letter) for letter in status)

        async def standings() -> set[str]:
            return {(await handle.standing()).state for handle in handles}

        assert await standings() == {"waiting"}
        async with doomed(app, len(status)):
            await wait_until(lambda: set(status.values()) == {"sending"})
            assert await standings() == {"running"}
        # Nobody's lease is live, so no job is shown as running, whatever the application's own rows say.
        assert {await handle.status() for handle in handles} == {"ready"}
        assert await standings() == {"waiting"}
        await app.run_worker(until="idle")
        assert await standings() == {"done"}
    assert set(status.values()) == {"sent"}


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
async def test_as_10_a_hundred_running_jobs_of_a_dead_worker_are_not_forgotten(url: str, delivery: Guarantee) -> None:
    app = App(url)
    starts: list[int] = []

    @app.task(idempotent=True, delivery=delivery)
    async def work(number: int) -> None:
        starts.append(number)
        if not current().losses:
            await wait_until(lambda: False)

    async with app:
        handles = await app.defer_many(work.call(number) for number in range(100))
        async with doomed(app, 100):
            await wait_until(lambda: len(starts) == 100)
        await app.run_worker(until="idle")
        again = starts[100:]
        if delivery == "at_least_once":
            assert sorted(again) == list(range(100))
        else:
            assert again == []
            assert {(await handle.outcome()).end for handle in handles} == {"lost"}


async def test_as_11_a_poison_job_is_set_aside_after_three_losses_and_the_healthy_are_done(url: str) -> None:
    app = App(url)
    done: list[int] = []

    @app.task(idempotent=True, priority=1)
    async def poison() -> None:
        raise AssertionError("it would kill this process, too")

    @app.task(idempotent=True)
    async def healthy(number: int) -> None:
        done.append(number)

    async with app:
        bad = await poison.defer()
        await app.defer_many(healthy.call(number) for number in range(1000))
        await lose(app, 3)
        await app.run_worker(until="idle")
        (dead,) = await app.admin.list_jobs("default", "dead", after=None, limit=10)
    assert dead.job.id == bad.id
    assert read_outcome(dead.outcome or b"").end == "quarantined"
    assert sorted(done) == list(range(1000))
