"""Stories from production, as the issue names them."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskq import App, current
from taskq.errors import EncodeError, JobExpired, PayloadTooLarge
from taskq.events import JobFinished, LeaseLost, LoopStalled, SettlementRefused
from taskq.testing import VirtualClock, deferred, run_until_idle
from taskq.testing.deployment import pass_lease
from taskq.worker.run import Run
from taskq.worker.worker import Worker
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey as valkey
from tests.servers.tenants import queue_anywhere
from tests.worker.moves import SOON, heard, most_at_once, wait_until
from tests.worker.tap import Tap

LONG = "TASKQ_TEST_LONG" in os.environ

pytestmark = pytest.mark.anyio


def were_asked(runs: Sequence[Run]) -> bool:
    """To end, all of them."""
    return all(run.asked for run in runs)


@pytest.mark.timeout(900)
async def test_as_09_a_stop_starts_no_job_anew_that_still_runs(url: str) -> None:
    """A hundred jobs ignore cancellation beyond the grace while another worker stands by: no two runs overlap."""
    app = App(url, slots=100, grace=0.1, lease=2.0)
    refused = heard(app, SettlementRefused)
    running: set[str] = set()
    runs: list[str] = []
    gate = anyio.Event()

    @app.task
    async def deaf() -> None:
        assert current().id not in running
        running.add(current().id)
        runs.append(current().id)
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()
        running.discard(current().id)

    async with app:
        for _ in range(100 if LONG else 1):
            gate = anyio.Event()
            jobs = await app.defer_many(deaf.call() for _ in range(100))
            async with app.working(), contextlib.AsyncExitStack() as stack:
                worker: Worker = await stack.enter_async_context(app.working(slots=100))
                await wait_until(lambda: len(running) == 100)
                held = list(worker.running)
                worker.drain()
                await wait_until(partial(were_asked, held))
                assert len(running) == 100
                gate.set()
            assert [await job.status() for job in jobs] == ["gone"] * 100
            assert sorted(runs) == sorted({job.id for job in jobs})
            runs.clear()
    assert refused == []


async def test_as_12_a_job_that_blocks_the_loop_keeps_its_lease(tap: Tap) -> None:
    app = App("memory://", lease=0.5, stall_warning=0.2)
    stalls, lost = heard(app, LoopStalled), heard(app, LeaseLost)
    extended: list[int] = []

    @app.task
    async def block() -> int:
        before = len(tap.sizes("extend"))
        time.sleep(1.5)  # noqa: ASYNC251 - this is what is tested
        extended.append(len(tap.sizes("extend")) - before)
        return current().losses

    async with app:
        job = await block.defer()
        await run_until_idle(app)
        assert await job.result(0) == 0
    assert extended[0] >= 3
    assert lost == []
    assert {stall.task for stall in stalls if "time.sleep(1.5)" in stall.stack} == {block.name}


@pytest.fixture(params=["sqlite", *(["valkey"] if LONG else [])])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return queue_anywhere(request, tmp_path)


async def test_as_12_a_job_that_blocks_the_loop_for_three_leases_is_not_started_elsewhere(shared: str) -> None:
    """Two workers with loops of their own, on one queue: the other one has nothing else to do than to take over."""
    app = App(shared, lease=0.5, stall_warning=0.2)
    stalls, lost = heard(app, LoopStalled), heard(app, LeaseLost)
    runs: list[int] = []
    blocking = threading.Event()

    @app.task
    async def block() -> int:
        runs.append(threading.get_ident())
        blocking.set()
        time.sleep(1.5)  # noqa: ASYNC251 - this is what is tested
        return current().losses

    @app.task(queue="other")
    async def elsewhere() -> int:
        return threading.get_ident()

    workers: list[tuple[Worker, asyncio.AbstractEventLoop]] = []

    async def work() -> None:
        await app.run_worker(
            queues=["default"], started=lambda worker: workers.append((worker, asyncio.get_running_loop()))
        )

    other = threading.Thread(target=lambda: asyncio.run(work()))
    async with app:
        async with app.working(queues=["default"], max_jobs=1):
            job = await block.defer()
            await wait_until(blocking.is_set)
            other.start()
            assert await job.result(SOON) == 0
        await wait_until(lambda: workers)
        ((worker, loop),) = workers
        loop.call_soon_threadsafe(worker.drain)
        await anyio.to_thread.run_sync(other.join)
    assert runs == [threading.get_ident()]
    assert lost == []
    assert block.name in {stall.task for stall in stalls if "time.sleep(1.5)" in stall.stack}


class _Row:
    """An object of an ORM, with all its state."""


async def test_as_17_state_is_refused_where_it_is_deferred(url: str) -> None:
    app = App(url)

    @app.task
    async def anything(value: Any) -> None: ...

    @app.task
    async def at(moment: datetime) -> None: ...

    async with app:
        for value, path in [
            (_Row(), "value"),
            ({"rows": [1, _Row()]}, r"value.rows\[1\]"),
            ({"tags": {1, 2}}, "value.tags"),
        ]:
            with pytest.raises(EncodeError, match=path):
                await anything.defer(value)
        with pytest.raises(EncodeError, match="moment"):
            await at.defer(datetime(2026, 1, 1, 12, 0))  # noqa: DTZ001 - this is what is tested
        with pytest.raises(PayloadTooLarge, match="anything"):
            await anything.defer("x" * 5_000_000)
        assert await deferred(app) == []
        await anything.defer({"rows": [1, 2]})
        (job,) = await deferred(app)
        assert job.record.job.body.startswith(b'{"')


async def test_as_18_an_expired_job_does_not_run(url: str) -> None:
    app = App(url)
    finished = heard(app, JobFinished)

    @app.task(expires_in=0.01)
    async def soon() -> int:
        raise AssertionError("it is too late")

    async with app:
        job = await soon.defer()
        await pass_lease(app.backend.broker, "default")
        await run_until_idle(app)
        with pytest.raises(JobExpired):
            await job.result(0)
        assert await job.status() == "expired"
    assert [(event.id, event.end, event.run) for event in finished] == [(job.id, "expired", 0.0)]


async def test_as_18_a_job_does_not_start_after_the_moment_its_caller_named(url: str) -> None:
    app = App(url)
    ran: list[str] = []

    @app.task
    async def note(what: str) -> str:
        ran.append(what)
        return what

    async with app:
        past = await note.options(expires_at=datetime.now(UTC) - timedelta(minutes=1)).defer("too late")
        both = await note.options(expires_at=datetime.now(UTC) + timedelta(hours=1)).defer("in time")
        await run_until_idle(app)
        with pytest.raises(JobExpired):
            await past.result(0)
        assert await both.result(0) == "in time"
    assert ran == ["in time"]


async def test_as_18_workers_down_for_31_minutes_let_a_job_of_30_expire(clock: VirtualClock) -> None:
    app = App("memory://")
    ran: list[float] = []

    @app.task(expires_in=timedelta(minutes=30))
    async def soon() -> int:
        ran.append(clock.time())
        return 1

    async with app:
        job = await soon.defer()
        scheduled = await soon.options(delay=timedelta(hours=2), expires_in=timedelta(hours=1)).defer()
        await clock.advance(minutes=31)
        await run_until_idle(app)
        assert await job.status() == "expired"
        await clock.advance(hours=2, minutes=29, seconds=1)
        await run_until_idle(app)
        assert await scheduled.status() == "expired"
    assert ran == []


async def test_as_33_a_hundred_slots_run_a_hundred_jobs_at_once(url: str) -> None:
    assert await most_at_once(App(url, slots=100)) == 100
