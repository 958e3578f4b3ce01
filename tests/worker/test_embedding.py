"""An app inside other programs: beside a web app's loop, under threads without a loop, in one process with itself."""

import asyncio
import threading

import anyio
import anyio.to_thread
import pytest

from taskq import App
from taskq.errors import ConfigError, JobFailed
from taskq.retry import Retry
from taskq.testing import run_until_idle
from tests.worker.moves import SOON

pytestmark = pytest.mark.anyio


async def test_a_worker_works_beside_what_defers(url: str) -> None:
    app = App(url)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with app, app.working(slots=3):
        jobs = await asyncio.gather(*(double.defer(n) for n in range(50)))
        assert [await job.result(SOON) for job in jobs] == [2 * n for n in range(50)]


async def test_an_error_beside_a_worker_comes_out_as_it_was(url: str) -> None:
    app = App(url)
    async with app:
        with pytest.raises(ZeroDivisionError):
            async with app.working():
                raise ZeroDivisionError


async def test_an_app_opens_once_in_a_loop() -> None:
    app = App("memory://")

    @app.task
    async def note() -> None: ...

    with pytest.raises(ConfigError, match="async with app"):
        await note.defer()
    async with app:
        with pytest.raises(ConfigError, match="open already"):
            async with app:
                raise AssertionError
    async with app:
        await note.defer()


async def test_a_worker_opens_the_app_it_works_for(url: str) -> None:
    app = App(url)
    with anyio.fail_after(SOON):
        await app.run_worker(until="idle")


async def test_sync_callers_in_threads_use_the_loop_that_is_open(url: str) -> None:
    app = App(url)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    def handle_request(n: int) -> int:
        return double.defer_sync(n).result_sync(SOON)

    async with app, app.working():
        results = await asyncio.gather(*(anyio.to_thread.run_sync(handle_request, n) for n in range(10)))
    assert results == [2 * n for n in range(10)]


async def test_a_sync_call_inside_a_loop_is_refused() -> None:
    app = App("memory://")

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with app:
        with pytest.raises(RuntimeError, match="await"):
            double.defer_sync(1)
        job = await double.defer(1)
        with pytest.raises(RuntimeError, match="await"):
            job.result_sync()
        await run_until_idle(app)
        assert await job.result() == 2


async def test_a_job_may_defer_others_and_wait_for_them(url: str) -> None:
    app = App(url, slots=5)

    @app.task
    async def part(n: int) -> int:
        return n * n

    @app.task
    async def whole(n: int) -> int:
        parts = [await part.defer(i) for i in range(n)]
        return sum([await job.result(SOON) for job in parts])

    async with app, app.working():
        assert await (await whole.defer(4)).result(SOON) == 14


async def test_a_plain_call_needs_no_app_to_be_open() -> None:
    app = App("memory://")

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task
    def where() -> int:
        return threading.get_ident()

    assert await double(21) == 42
    assert await where() != threading.get_ident()


async def test_bulk_defers_stream_and_report(url: str) -> None:
    app = App(url)

    @app.task
    async def note(n: int) -> int:
        return n

    async with app:
        handles = await app.defer_many(note.call(n) for n in range(2500))
        await run_until_idle(app)
        assert len(handles) == 2500
        assert [await handles[n].result(0) for n in (0, 999, 1000, 2499)] == [0, 999, 1000, 2499]


async def test_cancelling_what_is_beside_a_worker_drains_it_without_grace(url: str) -> None:
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
        with anyio.CancelScope() as scope:
            async with app.working():
                await started.wait()
                scope.cancel()
                await anyio.sleep_forever()
        assert ended.is_set()
        assert await job.status() == "ready"


async def test_a_failed_job_raises_in_the_thread_that_waits_for_it(url: str) -> None:
    app = App(url)

    @app.task(retry=Retry.never())
    async def fail() -> int:
        raise ValueError("no")

    def call() -> int:
        return fail.defer_sync().result_sync(SOON)

    async with app, app.working():
        with pytest.raises(JobFailed, match="ValueError: no"):
            await anyio.to_thread.run_sync(call)


def test_without_any_loop_one_is_opened_behind_the_scenes(url: str) -> None:
    app = App(url)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    try:
        handle = double.defer_sync(21)
        app.run_sync(lambda: run_until_idle(app))
        assert handle.result_sync(SOON) == 42
        assert double.defer_sync(4).id != handle.id
    finally:
        app._portal.close()  # pyright: ignore[reportPrivateUsage] - else it is closed when the interpreter exits
