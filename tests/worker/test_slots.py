"""The slots: so many at once, each in a context of its own, a suspect alone."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import anyio
import pytest

from taskq import App, Retry, current
from taskq.events import JobAgain
from taskq.testing import run_until_idle
from tests.worker.moves import SOON, lose, wait_until
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio

_left: ContextVar[str] = ContextVar("left", default="clean")
_opened: ContextVar[str] = ContextVar("opened", default="closed")


async def test_so_many_run_at_once_and_no_more(url: str) -> None:
    app = App(url, slots=4)
    running, most, ended = 0, 0, 0
    gate = anyio.Event()

    @app.task
    async def wait() -> None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        ended += 1

    async with app:
        await app.defer_many(wait.call() for _ in range(12))
        async with app.working():
            await wait_until(lambda: running == 4)
            gate.set()
            await wait_until(lambda: ended == 12)
    assert (running, most) == (0, 4)


async def test_no_context_variable_leaks_from_job_to_job() -> None:
    app = App("memory://", slots=1)
    seen: list[str] = []

    @app.task
    async def leave(value: str) -> None:
        seen.append(_left.get())
        _left.set(value)

    async with app:
        for n in range(20):
            await leave.defer(str(n))
        await run_until_idle(app)
    assert seen == ["clean"] * 20


async def test_each_of_many_jobs_side_by_side_sees_its_own() -> None:
    app = App("memory://", slots=100)
    wrong: list[str] = []

    @app.task
    async def check() -> None:
        _left.set(current().id)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        if not _left.get() == current().id == current().job.id:
            wrong.append(current().id)

    @app.task
    def check_in_thread() -> None:
        _left.set(current().id)
        if _left.get() != current().id:
            wrong.append(current().id)

    async with app:
        await app.defer_many(check.call() for _ in range(1000))
        await app.defer_many(check_in_thread.call() for _ in range(50))
        worked = await run_until_idle(app)
    assert (len(worked.finished), wrong) == (1050, [])


async def test_what_the_lifespan_set_is_seen_by_every_job() -> None:
    @asynccontextmanager
    async def lifespan(_: App) -> AsyncGenerator[None]:
        token = _opened.set("open")
        yield
        _opened.reset(token)

    app = App("memory://", lifespan=lifespan)

    @app.task
    async def look() -> str:
        return _opened.get()

    async with app:
        job = await look.defer()
        await run_until_idle(app)
        assert await job.result() == "open"


async def test_a_run_asked_to_end_while_its_notes_are_written_ends_as_it_did(url: str, tap: Tap) -> None:
    app = App(url, slots=1)

    @app.task(retry=Retry.never())
    async def fail() -> None:
        await current().checkpoint(1)
        tap.swapping = anyio.Event()
        raise ValueError("by itself")

    async with app:
        job = await fail.defer()
        async with app.working() as worker:
            await wait_until(lambda: any(key.startswith("notes:") for key in tap.swapped))
            (run,) = worker.running
            await job.cancel()
            await wait_until(lambda: run.asked)
            tap.swapping.set()
            await wait_until(lambda: not worker.look().held)
        assert (await job.outcome()).errors[-1].type == "ValueError"


async def test_whatever_breaks_around_a_run_its_slot_and_its_job_are_free_again(url: str, tap: Tap) -> None:
    app = App(url, slots=1)

    @app.task(retry=Retry.fixed(2, 0), idempotent=True)
    async def note() -> int:
        await current().checkpoint(1)
        if current().attempt == 1:
            tap.notes_are_faulty = True
            raise ConnectionError
        return current().attempt

    def mend(_: JobAgain) -> None:
        tap.notes_are_faulty = False

    app.events.subscribe(JobAgain, mend)
    async with app, app.working():
        job = await note.defer()
        assert await job.result(SOON) == 2


@pytest.mark.usefixtures("clock")
async def test_a_suspect_runs_alone() -> None:
    app = App("memory://", slots=10)
    running: set[str] = set()
    beside: list[set[str]] = []
    gate = anyio.Event()

    @app.task
    async def healthy() -> None:
        running.add(current().id)
        await gate.wait()
        running.discard(current().id)

    @app.task
    async def suspect() -> None:
        beside.append(set(running))

    async with app:
        job = await suspect.options(priority=1).defer()
        await lose(app, 2)
        await app.defer_many(healthy.call() for _ in range(5))
        async with app.working():
            await wait_until(lambda: len(running) == 5)
            gate.set()
            with anyio.fail_after(SOON):
                await run_until_idle(app)
        assert await job.status() == "gone"
    assert beside == [set()]


@pytest.mark.usefixtures("clock")
async def test_a_suspect_waits_until_its_neighbours_have_ended() -> None:
    app = App("memory://", slots=10)
    order: list[str] = []
    started, gate = anyio.Event(), anyio.Event()

    @app.task
    async def healthy() -> None:
        started.set()
        await gate.wait()
        order.append("healthy")

    @app.task(queue="suspects")
    async def suspect() -> None:
        order.append("suspect")

    async with app:
        await suspect.defer()
        await lose(app, 2, "suspects")
        await app.pause("suspects")
        async with app.working():
            await healthy.defer()
            await started.wait()
            await app.resume("suspects")
            await wait_until_leased(app, "suspects")
            # The suspect is held, so a job that is deferred now stays with the broker.
            late = await healthy.defer()
            assert await late.status() == "ready"
            assert order == []
            gate.set()
            await wait_until(lambda: len(order) == 3)
    assert order == ["healthy", "suspect", "healthy"]


async def wait_until_leased(app: App, queue: str) -> None:
    with anyio.fail_after(SOON):
        while not (await app.admin.stats([queue]))[0].leased:  # noqa: ASYNC110 - a fetch can only be asked after
            await anyio.sleep(0.01)
