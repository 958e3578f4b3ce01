"""Taking the line apart: grace, cancel, give back, settle; nothing is given back while it still runs."""

import asyncio
import contextlib

import anyio
import pytest

from taskq import App, current
from taskq.events import JobAgain, JobFinished, WorkerDraining, WorkerStopped
from taskq.testing import VirtualClock
from taskq.worker import pool
from taskq.worker.worker import Worker
from tests.worker.moves import SOON, heard, wait_until
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


async def test_what_ends_within_the_grace_is_settled(clock: VirtualClock) -> None:
    app = App("memory://", grace=25)
    draining = heard(app, WorkerDraining)

    @app.task
    async def long() -> bool:
        await anyio.sleep(20)
        return current().stopping

    async with app:
        async with app.working():
            job = await long.defer()
            await clock.advance(1)
        assert clock.time() == pytest.approx(20)
        assert await job.result(0) is True
    assert [event.running for event in draining] == [1]


async def test_what_does_not_end_is_cancelled_and_given_back_uncounted(clock: VirtualClock) -> None:
    app = App("memory://", grace=25)
    again = heard(app, JobAgain)
    cleaned: list[float] = []

    @app.task
    async def long() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            cleaned.append(clock.time())

    async with app:
        async with app.working():
            job = await long.defer()
            await clock.advance(1)
        assert cleaned == pytest.approx([26])
        (delivery,) = await app.backend.broker.fetch(["default"], 1, lease=30, wait=0)
        assert (delivery.job.id, delivery.attempt, delivery.losses) == (job.id, 1, 0)
    assert [(event.after, event.counted) for event in again] == [(0, False)]


async def test_nothing_is_given_back_while_it_still_runs(clock: VirtualClock) -> None:
    app = App("memory://", grace=1, lease=30)
    ended: list[float] = []

    @app.task
    async def stubborn() -> None:
        until = clock.time() + 100
        while clock.time() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(until - clock.time())
        ended.append(clock.time())

    async with app:
        async with app.working() as worker:
            job = await stubborn.defer()
            await clock.advance()
            worker.drain()
            await clock.advance(90)
            assert await job.status() == "leased"
        assert ended == pytest.approx([100])
        assert await job.status() == "gone"


async def test_what_waits_for_a_slot_goes_back_at_once(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", slots=1, grace=1000)

    @app.task
    async def short() -> None: ...

    @app.task(priority=-1)
    async def long() -> None:
        await anyio.sleep(500)

    async with app:
        # Short jobs teach the fetcher to fetch ahead; then a long one stands in the way of what it has fetched.
        await app.defer_many(short.call() for _ in range(200))
        async with app.working() as worker:
            jobs = [await long.defer() for _ in range(5)]
            await clock.advance(1)
            assert len(list(worker.running)) == 1
            worker.drain()
            await clock.advance()
            statuses = [await job.status() for job in jobs]
            assert sorted(statuses) == ["leased", "ready", "ready", "ready", "ready"]
            assert len(tap.held) == 1


async def test_a_run_that_is_abandoned_keeps_its_lease_to_the_end_and_no_longer(clock: VirtualClock) -> None:
    app = App("memory://", lease=30, grace=1000)
    stopped = heard(app, WorkerStopped)
    gate = anyio.Event()

    @app.task
    async def stubborn() -> None:
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()

    async with app:
        async with app.working() as worker:
            job = await stubborn.defer()
            await clock.advance(60)
            worker.abandon()
        assert len(stopped) == 1
        assert clock.time() < 65
        assert await job.status() == "leased"
        await clock.advance(31)
        (delivery,) = await app.backend.broker.fetch(["default"], 1, lease=30, wait=0)
        assert delivery.losses == 1
        gate.set()


async def test_an_interrupted_job_that_runs_at_most_once_is_lost_and_one_not_begun_is_not(clock: VirtualClock) -> None:
    app = App("memory://", slots=1, grace=1)
    finished = heard(app, JobFinished)

    @app.task(delivery="at_most_once")
    async def charge() -> None:
        await anyio.sleep(3600)

    async with app:
        async with app.working():
            begun, waiting = await charge.defer(), await charge.defer()
            await clock.advance(1)
        assert [(event.id, event.end) for event in finished] == [(begun.id, "lost")]
        assert await waiting.status() == "ready"


async def test_a_broker_that_is_away_does_not_keep_a_worker_from_ending(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", lease=30)

    @app.task
    async def short() -> None:
        await anyio.sleep(5)

    async with app:
        async with app.working() as worker:
            job = await short.defer()
            await clock.advance(1)
            worker.drain()
            tap.broken = "before"
        assert clock.time() < 20
        tap.broken = "no"
        # What could not be settled comes back by its lease: repeated, but not lost.
        await clock.advance(30)
        assert await job.status() == "ready"


async def test_cancelling_during_the_grace_ends_it(clock: VirtualClock) -> None:
    app = App("memory://", grace=1000)
    workers: list[Worker] = []

    @app.task
    async def long() -> None:
        await anyio.sleep(3600)

    async with app:
        job = await long.defer()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: app.run_worker(started=workers.append))
            await clock.advance(5)
            workers[0].drain()
            await clock.advance(5)
            group.cancel_scope.cancel()
        assert clock.time() == pytest.approx(10)
        assert await job.status() == "ready"


async def test_cancelling_a_worker_drains_it_without_grace(url: str) -> None:
    app = App(url)
    started, ended = anyio.Event(), anyio.Event()

    @app.task
    async def long() -> None:
        started.set()
        try:
            await anyio.sleep(SOON * 2)
        finally:
            ended.set()

    async with app:
        job = await long.defer()
        async with anyio.create_task_group() as group:
            group.start_soon(app.run_worker)
            await started.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(SOON):
            await ended.wait()
        (delivery,) = await app.backend.broker.fetch(["default"], 1, lease=30, wait=SOON)
        assert (delivery.job.id, delivery.attempt, delivery.losses) == (job.id, 1, 0)


async def test_a_drained_worker_leaves_no_task_behind(url: str) -> None:
    app = App(url)

    @app.task
    async def answer() -> int:
        return 42

    async with app:
        before = asyncio.all_tasks()
        async with app.working() as worker:
            assert await (await answer.defer()).result(SOON) == 42
        assert asyncio.all_tasks() <= before
        assert not list(worker.running)


async def test_a_fetch_that_waits_is_roused_by_a_drain_and_by_quiet(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "WAIT", 100 * SOON)
    app = App(url)

    @app.task(keep=60)
    async def work() -> None: ...

    with anyio.fail_after(SOON):
        async with app, app.working() as worker:
            await (await work.defer()).result(SOON)
            (slots,) = [each.slots for each in worker.pools]
            await wait_until(lambda: slots.expecting)
            worker.quiet(True)
            await wait_until(lambda: not slots.expecting)
            worker.quiet(False)
            await (await work.defer()).result(SOON)
