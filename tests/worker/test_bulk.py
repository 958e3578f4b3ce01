"""Many defers at once take part in whatever a single one would."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from taskq import App, Retry, Spread
from taskq.call import Call
from taskq.errors import BrokerUnavailable, PartlyEnqueued
from taskq.testing import VirtualClock, deferred, run_until_idle
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


async def test_a_bulk_defer_inside_a_transactional_handler_commits_or_vanishes_with_it(url: str) -> None:
    app = App(url)

    @app.task
    async def child(number: int) -> None: ...

    @app.task(transaction=True, retry=Retry(1))
    async def parent(fails: bool) -> None:
        await app.defer_many(child.call(number) for number in range(3))
        if fails:
            raise ValueError

    async with app:
        await parent.defer(True)
        await run_until_idle(app)
        assert await deferred(app) == []
        await parent.defer(False)
        await app.run_worker(max_jobs=1)
        assert [job.arguments for job in await deferred(app)] == [{"number": number} for number in range(3)]


async def test_a_part_is_under_way_while_the_next_one_is_prepared(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note(n: int) -> None: ...

    async def calls() -> AsyncIterator[Call[None]]:
        for n in range(2_500):
            if n == 1_200:
                await tap.arrived.wait()
                tap.open.set()
            yield note.call(n)

    async with app:
        tap.open = anyio.Event()
        await app.defer_many(calls())
        first, *_ = sizes = tap.sizes("enqueue")
        assert (first, sum(sizes)) == (250, 2_500)
        assert 900 <= max(sizes) <= 1_000, "what gathered meanwhile goes together"
        assert [job.arguments["n"] for job in await deferred(app)] == list(range(2_500))


@pytest.mark.parametrize("pipelined", [False, True])
async def test_a_second_part_goes_behind_the_first_where_that_keeps_their_order(tap: Tap, pipelined: bool) -> None:
    app, tap.pipelined = App("memory://"), pipelined

    @app.task
    async def note(n: int) -> None: ...

    async def calls() -> AsyncIterator[Call[None]]:
        for n in range(2_500):
            if n == 1_200:
                await anyio.wait_all_tasks_blocked()
                assert tap.waiting == (2 if pipelined else 1)
                tap.open.set()
            yield note.call(n)

    async with app:
        tap.open = anyio.Event()
        handles = await app.defer_many(calls())
        assert tap.sizes("enqueue")[: 1 + pipelined] == [250] * (1 + pipelined)
        assert [job.arguments["n"] for job in await deferred(app)] == list(range(2_500))
        assert [handle.id for handle in handles] == [job.record.job.id for job in await deferred(app)]


@pytest.mark.parametrize("pipelined", [False, True])
async def test_a_bulk_defer_that_fails_leaves_no_part_under_way(tap: Tap, pipelined: bool) -> None:
    app, tap.pipelined = App("memory://"), pipelined

    @app.task
    async def note(n: int) -> None: ...

    def calls() -> Iterator[Call[None]]:
        yield from map(note.call, range(700 if pipelined else 400))
        raise ValueError("no more")

    async with app:
        tap.broken = "before"
        with pytest.raises(BrokerUnavailable):
            await app.defer_many(map(note.call, range(2_500)))
        with pytest.raises(ValueError, match="no more"):
            await app.defer_many(calls())
        tap.broken = "no"
        tap.open = anyio.Event()
        with pytest.raises(ValueError, match="no more"):
            await app.defer_many(calls())
        tap.open.set()
        await anyio.wait_all_tasks_blocked()
        assert await deferred(app) == []


async def test_a_bulk_tells_of_each_job_whether_its_server_was_there(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note(n: int) -> None: ...

    calls = [note.options(queue="away" if n % 3 == 0 else "here").call(n) for n in range(2_500)]
    async with app:
        tap.away = {"away"}
        with pytest.raises(PartlyEnqueued) as partly:
            await app.defer_many(calls)
        assert [*partly.value.errors] == [*range(0, 2_500, 3)]
        assert {type(error) for error in partly.value.errors.values()} == {BrokerUnavailable}
        with pytest.raises(BrokerUnavailable):
            await app.defer_many(calls[::3])
        tap.away = set()
        added = [handle.added for handle in await app.defer_many(calls)]
    assert added == [n % 3 == 0 for n in range(2_500)]


async def test_calls_may_be_read_from_the_transaction_they_are_deferred_in(url: str) -> None:
    app = App(url)

    @app.task
    async def child(number: int) -> None: ...

    @app.task(transaction=True)
    async def parent() -> None:
        async def calls() -> AsyncIterator[Call[None]]:
            for number in range(2_100):
                if number % 700 == 0:
                    await child.defer(-number)
                yield child.call(number)

        await app.defer_many(calls())

    async with app:
        await parent.defer()
        await app.run_worker(max_jobs=1)
        assert len(await deferred(app)) == 2_103


async def test_each_call_of_a_bulk_may_have_a_moment_of_its_own(url: str) -> None:
    app = App(url)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    moments = [tomorrow, tomorrow + timedelta(hours=1), tomorrow]

    @app.task
    async def remind(number: int) -> None: ...

    async with app:
        await app.defer_many(
            remind.options(run_at=moment).call(number) for number, moment in zip(range(3), moments, strict=True)
        )
        found = {job.arguments["number"]: job.record.due for job in await deferred(app)}
        assert [found[number] for number in range(3)] == [pytest.approx(moment.timestamp()) for moment in moments]


@pytest.mark.parametrize("how", ["many", "each", "batch"])
async def test_calls_that_are_spread_begin_at_their_rate(clock: VirtualClock, how: str) -> None:
    app = App("memory://", slots=100)
    begun: list[tuple[float, int]] = []

    @app.task
    async def send(number: int) -> None:
        begun.append((clock.time(), number))

    calls, spread = [send.call(number) for number in range(200)], Spread(rate=2)
    async with app:
        if how == "many":
            await app.defer_many(calls, spread=spread)
        elif how == "each":
            assert [answer.error async for answer in app.defer_each(calls, spread=spread)] == [None] * 200
        else:
            async with app.batch("spread") as batch:
                await batch.add(calls, spread=spread)
        await run_until_idle(app, until="empty")
    assert [number for _, number in begun] == list(range(200))
    assert [moment for moment, _ in begun] == pytest.approx([number / 2 for number in range(200)], abs=0.1)
