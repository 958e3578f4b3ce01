"""The watchdog: a loop that stands still is reported, with what it is busy with."""

import asyncio
import time

import anyio
import pytest

from taskq import App
from taskq.events import LoopStalled, MemoryGrown
from taskq.testing import run_until_idle
from tests.worker.moves import SOON, heard, wait_until

pytestmark = pytest.mark.anyio


async def test_a_blocked_loop_is_reported_with_task_and_stack(url: str) -> None:
    app = App(url, stall_warning=0.1)
    stalls = heard(app, LoopStalled)

    @app.task
    async def block_the_loop() -> None:
        time.sleep(0.6)  # noqa: ASYNC251 - this is what is tested

    async with app:
        job = await block_the_loop.defer()
        await run_until_idle(app)
    stall = next(stall for stall in stalls if stall.task == block_the_loop.name)
    assert stall.id == job.id
    assert "block_the_loop" in stall.stack
    assert "time.sleep(0.6)" in stall.stack
    assert stall.seconds >= 0.1


async def test_a_long_stall_is_reported_at_growing_intervals() -> None:
    app = App("memory://", stall_warning=0.05)
    stalls = heard(app, LoopStalled)

    @app.task
    async def block() -> None:
        time.sleep(1.0)  # noqa: ASYNC251 - this is what is tested

    async with app:
        await block.defer()
        await run_until_idle(app)
    seconds = [stall.seconds for stall in stalls if "time.sleep(1.0)" in stall.stack]
    assert 2 <= len(seconds) <= 5
    assert seconds == sorted(seconds)


async def test_each_stall_is_reported_anew() -> None:
    app = App("memory://", stall_warning=0.1, slots=1)
    stalls = heard(app, LoopStalled)

    @app.task
    async def block() -> None:
        time.sleep(0.4)  # noqa: ASYNC251 - this is what is tested
        # The watch sees the loop turn before the next one begins.
        await asyncio.sleep(0.3)

    async with app:
        first, second = await block.defer(), await block.defer()
        await run_until_idle(app)
    assert {first.id, second.id} <= {stall.id for stall in stalls}


async def test_code_outside_of_jobs_is_reported_without_one() -> None:
    app = App("memory://", stall_warning=0.1)
    stalls = heard(app, LoopStalled)

    @app.task
    async def answer() -> int:
        return 42

    async with app, app.working():
        assert await (await answer.defer()).result(SOON) == 42
        time.sleep(0.5)  # noqa: ASYNC251 - this is what is tested
        await wait_until(lambda: any("time.sleep(0.5)" in stall.stack for stall in stalls))
    assert {(stall.id, stall.task) for stall in stalls} == {(None, None)}


async def test_a_loop_that_turns_is_not_reported() -> None:
    app = App("memory://", stall_warning=5.0)
    stalls = heard(app, LoopStalled)

    @app.task
    async def patient() -> int:
        await asyncio.sleep(0.2)
        return 1

    async with app:
        job = await patient.defer()
        await run_until_idle(app)
        assert await job.result(SOON) == 1
    assert stalls == []


async def test_memory_that_grows_with_the_jobs_is_reported() -> None:
    app = App("memory://", stall_warning=0.02, growth_warning=10)
    grown, leaked = heard(app, MemoryGrown), list[bytes]()

    @app.task(keep=60)
    async def leak() -> None:
        leaked.append(b"x" * (128 << 10))

    async with app, app.working():
        with anyio.fail_after(SOON):
            while not grown:
                await (await leak.defer()).result(SOON)
    assert grown[0].grown > 4 << 20
    assert grown[0].memory > grown[0].grown
