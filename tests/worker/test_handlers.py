"""How handlers are called: in the loop, in threads that are asked and never cut off, in processes that are killed."""

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from taskq import App, RateLimit, Retry, current
from taskq.errors import JobCancelled, JobFailed, JobTimeout
from taskq.events import JobFinished
from taskq.testing import VirtualClock, run_until_idle
from taskq.worker.memory import highest, memory_of
from tests.worker.cpu import (
    PROXY,
    SMTP,
    declared,
    declared_here,
    die,
    fail,
    heed,
    hold,
    name_granted,
    reach_out,
    square,
    stay,
)
from tests.worker.moves import SOON, heard, wait_until

pytestmark = pytest.mark.anyio


async def test_a_sync_handler_runs_in_a_thread_and_knows_its_job(url: str) -> None:
    app = App(url)

    @app.task
    def where(n: int) -> list[str]:
        return [str(threading.get_ident()), current().id, str(n)]

    async with app:
        job = await where.defer(7)
        await run_until_idle(app)
        thread, *rest = await job.result()
    assert thread != str(threading.get_ident())
    assert rest == [job.id, "7"]


async def test_sync_handlers_run_side_by_side_up_to_the_limit() -> None:
    app = App("memory://", threads=3)
    running, most = 0, 0
    lock = threading.Lock()
    full = threading.Barrier(3)

    @app.task
    def together() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        full.wait(SOON)
        with lock:
            running -= 1

    async with app:
        await app.defer_many(together.call() for _ in range(9))
        await run_until_idle(app, raise_failures=True)
    assert (running, most) == (0, 3)


async def test_a_thread_is_asked_at_its_time_out_and_what_it_returns_counts(url: str) -> None:
    app = App(url)

    @app.task(timeout=0.1)
    def cooperative() -> str:
        while not current().stopping:
            time.sleep(0.01)
        return "stopped when asked"

    async with app, app.working():
        job = await cooperative.defer()
        assert await job.result(SOON) == "stopped when asked"


async def test_a_thread_keeps_slot_and_lease_until_it_returns() -> None:
    app = App("memory://", slots=1, lease=0.3)
    gate, started = threading.Event(), threading.Event()
    runs: list[str] = []

    @app.task(timeout=0.05)
    def deaf() -> str:
        runs.append(current().id)
        started.set()
        assert gate.wait(SOON)
        return "at last"

    @app.task
    async def next_one() -> int:
        return 42

    async with app, app.working() as worker:
        job = await deaf.defer()
        other = await next_one.defer()
        await wait_until(lambda: started.is_set() and all(run.asked for run in worker.running))
        # Three leases on, it is still ours, and nobody else has begun.
        assert not await app.backend.broker.fetch(["elsewhere"], 1, lease=1, wait=0.9)
        assert (await job.status(), await other.status()) == ("leased", "ready")
        gate.set()
        assert await job.result(SOON) == "at last"
        assert await other.result(SOON) == 42
    assert len(runs) == 1


async def test_of_a_job_in_a_thread_it_is_known_where_its_code_is() -> None:
    app = App("memory://")
    gate, started = threading.Event(), threading.Event()

    @app.task
    def wait_in_thread() -> None:
        started.set()
        assert gate.wait(SOON)

    async with app, app.working() as worker:
        await wait_in_thread.defer()
        await wait_until(started.is_set)
        (run,) = worker.running
        stack = run.stack
        gate.set()
    assert "in wait_in_thread" in stack


async def test_a_failing_thread_fails_its_job(url: str) -> None:
    app = App(url)

    @app.task(retry=Retry.never())
    def broken() -> int:
        raise KeyError("lost")

    async with app:
        job = await broken.defer()
        await run_until_idle(app)
        with pytest.raises(JobFailed) as caught:
            await job.result()
    assert caught.value.type == "KeyError"
    assert 'raise KeyError("lost")' in caught.value.traceback


async def test_cpu_work_runs_in_another_process(url: str) -> None:
    app = App(url)
    task = app.task(executor="process")(square)
    async with app:
        jobs = [await task.defer(n) for n in range(4)]
        await run_until_idle(app, raise_failures=True)
        results = [await job.result() for job in jobs]
    assert [value for value, _ in results] == [0, 1, 4, 9]
    assert os.getpid() not in {process for _, process in results}


async def test_the_peak_of_a_run_in_another_process_is_its_own() -> None:
    app = App("memory://", processes=1)
    task = app.task(executor="process", retry=Retry.never())(hold)
    ends, loop = heard(app, JobFinished), app.task(retry=Retry.never())(in_the_loop)
    async with app:
        for size, fails in ((64 << 20, False), (0, False), (64 << 20, True)):
            await task.defer(size, fails=fails)
            await run_until_idle(app)
        await loop.defer()
        await run_until_idle(app)
    large, small, failed, shared = (end.peak for end in ends)
    assert large > small + (48 << 20)
    assert failed > small + (48 << 20)
    assert small > 0
    assert shared == 0


async def test_a_run_in_a_thread_tells_by_how_much_it_raised_the_worker() -> None:
    app = App("memory://")
    ends, task = heard(app, JobFinished), app.task(hold)
    size = highest() - memory_of("self") + (32 << 20)
    async with app:
        await task.defer(size)
        await run_until_idle(app, raise_failures=True)
    assert ends[0].grown > 16 << 20
    assert ends[0].peak == 0


async def in_the_loop() -> None: ...


async def test_a_child_finds_a_task_where_it_is_declared() -> None:
    app = App("memory://")
    app.include(declared)
    async with app:
        job = await declared_here.defer(3)
        await run_until_idle(app)
        assert await job.result() == -3


async def test_an_error_in_another_process_brings_its_traceback() -> None:
    app = App("memory://")
    task = app.task(executor="process", retry=Retry.never())(fail)
    async with app:
        job = await task.defer("by the test")
        await run_until_idle(app)
        with pytest.raises(JobFailed, match="ValueError: by the test") as caught:
            await job.result()
    assert "cpu.py" in caught.value.traceback


async def test_a_child_that_dies_fails_its_job_and_not_the_next() -> None:
    app = App("memory://", processes=1)
    dying = app.task(executor="process", retry=Retry.never())(die)
    living = app.task(executor="process")(square)
    async with app:
        dead, job = await dying.defer(), await living.defer(3)
        await run_until_idle(app)
        with pytest.raises(JobFailed, match="BrokenWorkerProcess"):
            await dead.result()
        assert (await job.result())[0] == 9


async def test_a_time_out_kills_the_child(tmp_path: Path) -> None:
    app = App("memory://")
    task = app.task(executor="process", timeout=3, retry=Retry.never())(stay)
    note = tmp_path / "pid"
    async with app:
        job = await task.defer(str(note))
        await run_until_idle(app)
        with pytest.raises(JobTimeout):
            await job.result()
    assert not _lives(note)


async def test_a_child_that_goes_silent_is_killed(tmp_path: Path) -> None:
    app = App("memory://")
    task = app.task(executor="process", idle_timeout=3, retry=Retry.never())(stay)
    note = tmp_path / "pid"
    async with app:
        job = await task.defer(str(note))
        await run_until_idle(app)
        with pytest.raises(JobTimeout, match="was silent"):
            await job.result()
    assert not _lives(note)


async def test_a_child_is_heard_and_stops_when_its_worker_asks_it_to(tmp_path: Path) -> None:
    app = App("memory://")
    task = app.task(executor="process", timeout=SOON, idle_timeout=SOON - 1)(heed)
    note = tmp_path / "heard"
    async with app:
        job = await task.defer(str(note))
        async with app.working() as worker:
            await wait_until(note.exists)
            (run,) = worker.running
            assert run.current is not None
            first = run.current.heard
            await wait_until(lambda: run.current and run.current.heard > first)
            worker.drain()
        assert await job.result() == f"{job.id} 1"


async def test_what_a_child_cannot_reach_is_refused_in_words() -> None:
    app = App("memory://")
    task = app.task(executor="process")(reach_out)
    async with app:
        job = await task.defer()
        await run_until_idle(app)
        refused = await job.result()
    assert [text.partition(" cannot")[0] for text in refused] == ["what the job has done", "the job's batch"]


async def test_a_child_knows_which_limit_had_room_but_for_keys_that_it_cannot_find() -> None:
    app = App("memory://", slots=1, processes=1)
    either = app.task(executor="process", limits=SMTP | PROXY)(name_granted)
    keyed = RateLimit(5, key=lambda: "all", name="keyed")
    by_function = app.task(executor="process", limits=keyed, name="keyed")(name_granted)
    async with app:
        jobs = [await task.defer() for task in (either, either, by_function)]
        await run_until_idle(app)
        one, other, refused = [await job.result() for job in jobs]
    assert (one, other) == (["smtp"], ["proxy"])
    assert "key is a function" in refused[0]


async def test_cancelling_kills_the_child(tmp_path: Path) -> None:
    app = App("memory://")
    task = app.task(executor="process", retry=Retry.never())(stay)
    note = tmp_path / "pid"
    async with app, app.working():
        job = await task.defer(str(note))
        await wait_until(note.exists)
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result(SOON)
    assert not _lives(note)


def _lives(note: Path) -> bool:
    if not note.exists():
        # It had not come so far.
        return False
    try:
        os.kill(int(note.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_handler_that_swallows_cancellation_keeps_slot_and_lease(clock: VirtualClock) -> None:
    app = App("memory://", slots=1, lease=30)
    runs: list[str] = []

    @app.task(timeout=60)
    async def stubborn() -> str:
        runs.append(current().id)
        ends = clock.time() + 600
        while clock.time() < ends:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(ends - clock.time())
        return "at last"

    @app.task
    async def next_one() -> int:
        return 42

    async with app, app.working():
        job = await stubborn.defer()
        other = await next_one.defer()
        await clock.advance(599)
        assert (await job.status(), await other.status()) == ("leased", "ready")
        await clock.advance(2)
        assert await job.result() == "at last"
        assert await other.result() == 42
    assert len(runs) == 1
