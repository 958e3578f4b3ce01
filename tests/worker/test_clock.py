"""The virtual clock: time jumps when all wait for it, and stands still while anything is at work outside."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import anyio
import anyio.to_process
import anyio.to_thread
import pytest

from taskq import App
from taskq.testing import VirtualClock
from tests.worker.tap import Tap


@pytest.mark.anyio
async def test_time_jumps_to_the_next_timer(clock: VirtualClock) -> None:
    await asyncio.sleep(3 * 86_400)
    assert clock.time() == pytest.approx(3 * 86_400)


@pytest.mark.anyio
async def test_timers_fire_in_their_order(clock: VirtualClock) -> None:
    fired: list[float] = []

    async def wait(seconds: float) -> None:
        await anyio.sleep(seconds)
        fired.append(clock.time())

    async with anyio.create_task_group() as group:
        for seconds in (300.0, 0.5, 86_400.0, 2.0):
            group.start_soon(wait, seconds)
    assert fired == pytest.approx([0.5, 2.0, 300.0, 86_400.0])


@pytest.mark.anyio
async def test_advance_comes_back_when_all_that_is_due_was_done(clock: VirtualClock) -> None:
    done: list[int] = []

    async def chain() -> None:
        await anyio.sleep(60)
        for step in range(50):
            await anyio.lowlevel.checkpoint()
            done.append(step)

    async with anyio.create_task_group() as group:
        group.start_soon(chain)
        await clock.advance(minutes=1)
        assert len(done) == 50


@pytest.mark.anyio
async def test_advance_by_nothing_does_what_can_be_done_now(clock: VirtualClock) -> None:
    done: list[int] = []

    async def soon() -> None:
        await anyio.lowlevel.checkpoint()
        done.append(1)

    async with anyio.create_task_group() as group:
        group.start_soon(soon)
        await clock.advance()
        assert done == [1]
        assert clock.time() == 0


@pytest.mark.anyio
async def test_a_wait_without_end_does_not_drive_the_clock(clock: VirtualClock) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, float("inf"))
        await clock.advance(5)
        assert clock.time() == pytest.approx(5)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_time_out_comes_at_its_moment(clock: VirtualClock) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3600):
            await asyncio.Event().wait()
    assert clock.time() == pytest.approx(3600)


async def _in_anyio_thread() -> None:
    await anyio.to_thread.run_sync(time.sleep, 0.05)


async def _in_asyncio_thread() -> None:
    await asyncio.to_thread(time.sleep, 0.05)


async def _in_own_executor() -> None:
    with ThreadPoolExecutor(1) as executor:
        await asyncio.get_running_loop().run_in_executor(executor, time.sleep, 0.05)


async def _in_process() -> None:
    await anyio.to_process.run_sync(time.sleep, 0.05)


async def _in_an_async_generator() -> None:
    async def generator() -> AsyncGenerator[None]:
        await anyio.to_thread.run_sync(time.sleep, 0.05)
        yield

    async for _ in generator():
        pass


class _Awaitable:
    def __await__(self) -> Generator[object, None, None]:
        yield from _in_anyio_thread().__await__()


async def _behind_an_awaitable() -> None:
    await _Awaitable()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "work",
    [
        _in_anyio_thread,
        _in_asyncio_thread,
        _in_own_executor,
        _in_process,
        _in_an_async_generator,
        _behind_an_awaitable,
    ],
)
async def test_time_stands_still_while_work_is_under_way_outside(
    clock: VirtualClock, work: Callable[[], Awaitable[None]]
) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 86_400)
        await work()
        assert clock.time() == 0
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_time_stands_still_when_told_to(clock: VirtualClock) -> None:
    came = asyncio.Event()
    stranger = threading.Timer(0.05, asyncio.get_running_loop().call_soon_threadsafe, [came.set])
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 86_400)
        with clock.standing_still():
            stranger.start()
            await came.wait()
        assert clock.time() == 0
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_job_of_three_days_hence_runs_at_its_moment(clock: VirtualClock) -> None:
    app = App("memory://")
    ran: list[float] = []

    @app.task
    async def later() -> None:
        ran.append(clock.time())

    async with app, app.working():
        await later.options(delay=timedelta(days=3)).defer()
        await clock.advance(days=2)
        assert ran == []
        await clock.advance(days=1)
        assert ran == pytest.approx([3 * 86_400])


@pytest.mark.anyio
async def test_an_idle_worker_does_not_look_every_second(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://")
    async with app, app.working():
        await clock.advance(days=30)
        assert tap.tried < 10


@pytest.mark.anyio
async def test_leaving_an_idle_worker_takes_no_time(clock: VirtualClock) -> None:
    app = App("memory://")
    async with app, app.working():
        await clock.advance()
    assert clock.time() == 0


@pytest.mark.anyio
async def test_a_run_at_of_the_clocks_own_now_is_met(clock: VirtualClock) -> None:
    app = App("memory://")
    ran: list[float] = []

    @app.task
    async def later() -> None:
        ran.append(clock.time())

    async with app, app.working():
        await later.options(run_at=clock.now() + timedelta(hours=1)).defer()
        await clock.advance(minutes=59)
        assert ran == []
        await clock.advance(minutes=1)
        assert len(ran) == 1


@pytest.mark.anyio
async def test_a_kept_result_lapses(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(keep=timedelta(hours=1))
    async def answer() -> int:
        return 42

    async with app, app.working():
        job = await answer.defer()
        await clock.advance(minutes=59)
        assert await job.result() == 42
        await clock.advance(minutes=2)
        assert await job.status() == "gone"


@pytest.mark.anyio
async def test_a_unique_key_of_seconds_lapses(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(unique=True, unique_until=3600, delay=timedelta(days=1))
    async def once() -> None: ...

    async with app:
        assert (await once.defer()).added
        await clock.advance(minutes=59)
        assert not (await once.defer()).added
        await clock.advance(minutes=2)
        assert (await once.defer()).added


@pytest.mark.anyio
@pytest.mark.usefixtures("clock")
async def test_a_lease_is_extended_for_as_long_as_its_job_runs(tap: Tap) -> None:
    app = App("memory://", lease=30)

    @app.task
    async def long() -> str:
        await anyio.sleep(3600)
        return "done"

    async with app, app.working():
        job = await long.defer()
        assert await job.result() == "done"
        assert len(tap.sizes("extend")) >= 3600 / 30
    assert tap.sizes("settle") == [1]


def test_a_clock_runs_one_coroutine_after_another() -> None:
    with VirtualClock() as clock:
        clock.run(anyio.sleep(3600))
        clock.run(anyio.sleep(3600))
        assert clock.time() == pytest.approx(7200)


def test_a_clock_without_a_loop_says_so() -> None:
    with pytest.raises(RuntimeError, match="run"):
        VirtualClock().time()
