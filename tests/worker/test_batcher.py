"""The batcher: defers made at the same time share round trips, and nothing else."""

import asyncio

import anyio
import pytest

from taskq import App
from taskq.errors import BrokerUnavailable, Conflict
from taskq.testing import deferred
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


async def test_a_lone_defer_goes_straight_through(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        for n in range(3):
            await note.defer(n)
    assert tap.sizes("enqueue") == [1, 1, 1]


async def test_what_gathers_during_a_call_goes_with_the_next(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        tap.open = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(note.defer, 0)
            await tap.arrived.wait()
            for n in range(1, 100):
                group.start_soon(note.defer, n)
            await anyio.wait_all_tasks_blocked()
            tap.open.set()
        assert tap.sizes("enqueue") == [1, 99]
        assert sorted(job.arguments["n"] for job in await deferred(app)) == list(range(100))


async def test_many_defers_at_once_take_few_round_trips(tap: Tap, url: str) -> None:
    app = App(url)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        handles = await asyncio.gather(*(note.defer(n) for n in range(500)))
        assert len({handle.id for handle in handles}) == 500
    assert sum(tap.sizes("enqueue")) == 500
    assert len(tap.sizes("enqueue")) <= 5


async def test_a_refused_job_fails_its_own_caller_alone(tap: Tap, url: str) -> None:
    app = App(url)

    @app.task
    async def note(n: int) -> None: ...

    once = note.options(unique="key", on_conflict="raise")
    async with app:
        holder = await once.defer(0)
        tap.open, tap.arrived = anyio.Event(), anyio.Event()
        calls = [asyncio.ensure_future(note.defer(1))]
        await tap.arrived.wait()
        calls += [asyncio.ensure_future(task.defer(n)) for n, task in enumerate((note, once, note), 2)]
        await anyio.wait_all_tasks_blocked()
        tap.open.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert tap.sizes("enqueue")[-1] == 3
    refused = answers[2]
    assert isinstance(refused, Conflict)
    assert refused.holder == holder.id
    assert not any(isinstance(answer, BaseException) for answer in (answers[0], answers[1], answers[3]))


async def test_a_cancelled_caller_cancels_nobody_else(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        tap.open = anyio.Event()
        calls = [asyncio.ensure_future(note.defer(0))]
        await tap.arrived.wait()
        calls += [asyncio.ensure_future(note.defer(n)) for n in (1, 2, 3)]
        await anyio.wait_all_tasks_blocked()
        calls[2].cancel()
        tap.open.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[2], asyncio.CancelledError)
        assert not any(isinstance(answer, BaseException) for answer in (answers[0], answers[1], answers[3]))


async def test_a_first_caller_that_is_cancelled_holds_nobody_up(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        tap.open = anyio.Event()
        first = asyncio.ensure_future(note.defer(0))
        await tap.arrived.wait()
        second = asyncio.ensure_future(note.defer(1))
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        tap.open.set()
        assert (await second).added
        assert first.cancelled() or (await asyncio.wait([first]) and first.cancelled())


async def test_each_caller_of_a_failed_call_gets_an_error_of_its_own(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        tap.open = anyio.Event()
        calls = [asyncio.ensure_future(note.defer(0))]
        await tap.arrived.wait()
        calls += [asyncio.ensure_future(note.defer(n)) for n in (1, 2)]
        await anyio.wait_all_tasks_blocked()
        tap.broken = "before"
        tap.open.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, BrokerUnavailable) for answer in answers)
        assert len({id(answer) for answer in answers}) == 3
        assert all(isinstance(answer.__cause__, ConnectionResetError) for answer in answers if answer)  # type: ignore[union-attr]
        tap.broken = "no"
        assert (await note.defer(9)).added


async def test_who_still_waits_when_the_app_closes_is_told(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        tap.open = anyio.Event()
        calls = [asyncio.ensure_future(note.defer(0))]
        await tap.arrived.wait()
        calls += [asyncio.ensure_future(note.defer(1))]
        await anyio.wait_all_tasks_blocked()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await calls[1]
    calls[0].cancel()
    await asyncio.wait(calls)


async def test_a_caller_that_defers_again_at_once_does_not_pass_those_that_wait(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note(n: int) -> None: ...

    async def defer_ten_times() -> None:
        for n in range(10):
            await note.defer(n)

    async with app:
        tap.open = anyio.Event()
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(defer_ten_times)
            await tap.arrived.wait()
            tap.open.set()
    # Whoever was first goes alone; from then on all hundred share each round trip.
    assert len(tap.sizes("enqueue")) <= 12
