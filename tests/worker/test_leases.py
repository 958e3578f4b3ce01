"""Leases: what is held stays held for as long as it runs, and what is lost ends at once and settles nothing."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from math import inf

import anyio
import pytest

from taskq import App, current
from taskq.broker import Extender
from taskq.events import JobFinished, LeaseLost, SettlementRefused
from taskq.job import Ack, Lease
from taskq.testing import VirtualClock, run_until_idle
from taskq.worker.leases import Leases
from taskq.worker.run import Run
from tests.bad_input.conftest import weaker as weaker
from tests.worker.moves import SOON, a_delivery, heard, steal, wait_until
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


async def test_a_job_longer_than_its_lease_is_delivered_once(url: str) -> None:
    app = App(url, lease=0.6)
    runs: list[str] = []

    @app.task
    async def long() -> str:
        runs.append(current().id)
        await anyio.sleep(1.3)
        return "done"

    async with app, app.working(), app.working():
        job = await long.defer()
        assert await job.result(SOON) == "done"
    assert len(runs) == 1


@pytest.mark.usefixtures("weaker")
async def test_a_job_that_cannot_be_held_any_longer_is_handed_over(clock: VirtualClock) -> None:
    app = App("weaker://max_lease=100", lease=10)
    runs: list[tuple[float, int]] = []

    @app.task(idempotent=True)
    async def day_long() -> None:
        runs.append((clock.time(), current().attempt))
        if len(runs) < 3:
            await anyio.sleep(86_400)

    async with app, app.working():
        await day_long.defer()
        await clock.advance(300)
    assert [attempt for _, attempt in runs] == [1, 1, 1]
    held = [later - earlier for (earlier, _), (later, _) in pairwise(runs)]
    assert all(80 <= seconds <= 100 for seconds in held)


async def test_a_lost_lease_cancels_the_run_and_settles_nothing(clock: VirtualClock) -> None:
    app = App("memory://", lease=30)
    lost, refused, finished = heard(app, LeaseLost), heard(app, SettlementRefused), heard(app, JobFinished)
    cancelled: list[float] = []

    @app.task
    async def long() -> None:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(clock.time())
            raise

    async with app, app.working() as worker:
        job = await long.defer()
        await clock.advance(1)
        stolen = await steal(app, worker)
        await clock.advance(10)
        assert len(cancelled) == 1
        assert cancelled[0] <= 11
        assert [event.id for event in lost] == [event.id for event in refused] == [job.id]
        assert finished == []
        # The thief's lease is as good as ever.
        assert await app.backend.broker.settle([Ack(stolen.receipt)]) == [True]


async def test_a_lost_lease_of_a_run_that_returns_all_the_same_settles_nothing(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", lease=30)

    @app.task
    async def stubborn() -> str:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            return "done twice"
        return "never"

    async with app, app.working() as worker:
        await stubborn.defer()
        await clock.advance(1)
        await steal(app, worker)
        await clock.advance(15)
        assert not list(worker.running)
        assert tap.sizes("settle") == []


async def test_runs_are_cancelled_before_their_leases_can_be_anothers(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", lease=30)
    cancelled: list[float] = []

    @app.task
    async def long() -> None:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(clock.time())
            raise

    async with app, app.working():
        await long.defer()
        await clock.advance()
        tap.broken = "before"
        await clock.advance(29.9)
        assert len(cancelled) == 1
        tap.broken = "no"


async def test_a_node_that_is_away_costs_the_runs_of_its_own_queues_and_no_others(
    clock: VirtualClock, tap: Tap
) -> None:
    app = App("memory://", lease=30)
    cancelled: list[tuple[str, float]] = []

    async def long() -> None:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append((current().queue, clock.time()))
            raise

    here, away = app.task(queue="here", name="here")(long), app.task(queue="away", name="away")(long)
    async with app, app.working():
        await here.defer()
        await away.defer()
        await clock.advance(1)
        tap.away = {"away"}
        await clock.advance(15)
        tap.away.clear()
        await clock.advance(25)
        assert not cancelled
        tap.away, began = {"away"}, clock.time()
        await clock.advance(29.9)
        ((queue, moment),) = cancelled
        assert (queue, moment - began <= 27.0) == ("away", True)
        await clock.advance(30)
        assert {queue for queue, _ in cancelled} == {"away"}
        tap.away.clear()


async def test_runs_finish_without_contact_where_that_is_wanted(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", lease=30, on_lost_contact="finish")

    @app.task
    async def long() -> str:
        await anyio.sleep(300)
        return "done"

    async with app, app.working():
        job = await long.defer()
        await clock.advance()
        tap.broken = "before"
        await clock.advance(299)
        tap.broken = "no"
        assert await job.result(3600) == "done"


async def test_a_thread_that_extends_ends_with_its_worker(url: str) -> None:
    app = App(url, lease=0.3)

    @app.task
    async def answer() -> int:
        return 42

    async with app:
        for _ in range(3):
            job = await answer.defer()
            await run_until_idle(app)
            assert await job.result(SOON) == 42


async def test_all_leases_are_extended_in_one_call(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", lease=30, slots=50)

    @app.task
    async def long() -> None:
        await anyio.sleep(30)

    async with app:
        await app.defer_many(long.call() for _ in range(50))
        await run_until_idle(app)
    assert clock.time() == pytest.approx(30)
    assert set(tap.sizes("extend")) == {50}
    assert len(tap.sizes("extend")) <= 5


async def test_past_the_stall_limit_leases_are_let_go() -> None:
    app = App("memory://", lease=0.4, stall_warning=0.1, stall_limit=0.2)
    lost = heard(app, LeaseLost)
    started, gate = anyio.Event(), anyio.Event()

    @app.task
    async def stuck() -> None:
        started.set()
        await gate.wait()
        time.sleep(1.2)  # noqa: ASYNC251 - this is what is tested
        await anyio.sleep(SOON)

    async with app, app.working(max_jobs=1):
        await stuck.defer()
        await started.wait()
        gate.set()
        # Once the loop turns again, somebody else may have the job; the worker rouses whoever waits beside it.
        with anyio.fail_after(SOON):
            while not (taken := await app.backend.broker.fetch(["default"], 1, lease=30, wait=SOON)):
                pass
        assert [delivery.losses for delivery in taken] == [1]
        await wait_until(lambda: lost)


async def test_a_server_that_hangs_counts_as_lost_before_the_lease_is_over(clock: VirtualClock) -> None:
    began, lost = clock.time(), list[float]()
    held = [Run(a_delivery())]

    class Hung:
        async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
            await anyio.sleep_forever()
            raise AssertionError((receipts, lease))

    @asynccontextmanager
    async def hung() -> AsyncGenerator[Extender]:
        yield Hung()

    leases = Leases(
        hung,
        lambda: held,
        30.0,
        obey=lambda _runs, _lease: None,
        out_of_contact=lambda _runs: lost.append(clock.time() - began),
        hand_over=lambda _runs: None,
        ceiling=inf,
        can_go_on=lambda: True,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(leases.run)
        await clock.advance(29)
        group.cancel_scope.cancel()
    assert lost == [pytest.approx(27.0)]  # pyright: ignore[reportUnknownMemberType] - pytest's
