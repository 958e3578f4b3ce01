"""What a job remembers: iterations, steps, checkpoints and progress, on every backend."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from msgspec import Struct

from taskq import App, JobHandle, current
from taskq.errors import ConfigError, StaleRun
from taskq.events import JobAgain, JobFinished
from taskq.job import JobRef
from taskq.ledger.notes import EVERY, KEPT, Progress, key_of
from taskq.outcome import Interrupted
from taskq.retry import Retry
from taskq.testing import VirtualClock, run_until_idle
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey as valkey
from tests.servers.fixtures import valkey_cluster as valkey_cluster
from tests.servers.tenants import queue_anywhere
from tests.worker.moves import SOON, hand_over, heard, wait_until

pytestmark = pytest.mark.anyio

RETRY = Retry.fixed(5, 0.01)
"""Soon again, on servers that know no virtual time."""


@pytest.fixture(params=["memory", "sqlite", "valkey", "cluster", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return queue_anywhere(request, tmp_path)


async def notes_of(app: App, id: str) -> bytes | None:
    return (await app.store.get(key_of(JobRef("default", id)))).value


async def test_an_iteration_goes_on_behind_the_last_item_that_was_done(url: str) -> None:
    app = App(url)
    done: list[int] = []

    @app.task(retry=RETRY)
    async def walk() -> int:
        async for number in current().iterate(range(10)):
            if number == 4 * current().attempt:
                raise ConnectionError
            done.append(number)
        return current().attempt

    async with app:
        async with app.working():
            job = await walk.defer()
            assert await job.result(SOON) == 3
        assert await notes_of(app, job.id) is None
    assert done == list(range(10))


async def test_a_function_of_the_cursor_is_not_asked_for_what_was_done(url: str) -> None:
    app = App(url)
    asked: list[datetime | None] = []
    moments = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 8)]

    async def after(last: datetime | None) -> AsyncIterator[datetime]:
        asked.append(last)
        for moment in moments:
            if last is None or moment > last:
                yield moment

    done: list[datetime] = []

    @app.task(retry=RETRY)
    async def walk() -> None:
        async for moment in current().iterate(after, key=lambda moment: moment):
            if len(done) == 3 and current().attempt == 1:
                raise ConnectionError
            done.append(moment)

    async with app:
        await walk.defer()
        await app.run_worker(until="empty")
    assert asked == [None, moments[2]]
    assert done == moments


async def test_a_draining_worker_hands_an_iteration_back_between_two_items(url: str) -> None:
    app = App(url, grace=3600)
    again = heard(app, JobAgain)
    done: list[int] = []
    gate = anyio.Event()

    @app.task
    async def walk() -> list[int]:
        async for number in current().iterate(range(6)):
            if number == 3 and not gate.is_set():
                gate.set()
                await wait_until(lambda: current().stopping)
            done.append(number)
        return [current().attempt, current().losses]

    async with app:
        job = await walk.defer()
        async with app.working() as worker:
            await gate.wait()
            worker.drain()
        assert done == [0, 1, 2, 3]
        async with app.working():
            assert await job.result(SOON) == [1, 0]
    assert done == list(range(6))
    assert [(event.after, event.counted, event.reason) for event in again] == [
        (0, False, "the worker is shutting down")
    ]


async def test_every_item_is_written_down_for_who_asks_so_that_a_kill_repeats_only_the_one_it_cut(url: str) -> None:
    app = App(url, lease=3600)
    done: list[tuple[int, int]] = []

    @app.task
    async def walk() -> int:
        losses = current().losses
        async for number in current().iterate(range(6), every=1):
            done.append((losses, number))
            if number == 3 and not losses:
                await anyio.sleep(3600)
        return losses

    async with app:
        job = await walk.defer()
        async with app.working() as first:
            await wait_until(lambda: (0, 3) in done)
            (run,) = first.running
            first.quiet(True)
            async with app.working():
                await hand_over(app, run, lambda: (1, 3) in done)
                assert await job.result(SOON) == 1
            run.ask(Interrupted())
    assert done == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (1, 4), (1, 5)]


async def test_a_run_that_was_overtaken_moves_no_cursor_and_learns_it(url: str) -> None:
    app = App(url, lease=3600)
    learned: list[str] = []
    gates = [anyio.Event(), anyio.Event()]
    done: list[tuple[int, int]] = []

    @app.task
    async def walk() -> None:
        losses = current().losses
        try:
            async for number in current().iterate(range(4), every=1):
                done.append((losses, number))
                while number == 1 and not gates[losses].is_set():
                    # It would be cancelled if its worker learned in time.
                    with contextlib.suppress(asyncio.CancelledError):
                        await gates[losses].wait()
        except StaleRun as error:
            learned.append(str(error))
            raise

    async with app:
        job = await walk.defer()
        async with app.working() as first:
            await wait_until(lambda: (0, 1) in done)
            (run,) = first.running
            first.quiet(True)
            async with app.working():
                await hand_over(app, run, lambda: (1, 1) in done)
                gates[0].set()
                await wait_until(lambda: learned)
                gates[1].set()
                await wait_until(lambda: (1, 3) in done)
    assert done == [(0, 0), (0, 1), (1, 1), (1, 2), (1, 3)]
    assert job.id in learned[0]


async def test_items_side_by_side_go_on_behind_what_is_done_in_order_and_repeat_no_more_than_the_window(
    url: str,
) -> None:
    app = App(url)
    begun: list[tuple[int, int]] = []
    most = 0

    @app.task(retry=RETRY)
    async def walk() -> int:
        attempt, at_once = current().attempt, 0

        async def handle(number: int) -> None:
            nonlocal at_once, most
            begun.append((attempt, number))
            at_once += 1
            most = max(most, at_once)
            for _ in range(number % 3 + 1):
                await anyio.lowlevel.checkpoint()
            at_once -= 1
            if number == 5 and attempt == 1:
                raise ConnectionError

        await current().each(range(12), handle, window=4, key=lambda number: number)
        return attempt

    async with app:
        async with app.working():
            job = await walk.defer()
            assert await job.result(SOON) == 2
        assert await notes_of(app, job.id) is None
    first = [number for attempt, number in begun if attempt == 1]
    assert first == list(range(len(first)))
    assert 6 <= len(first) <= 5 + 4
    assert [number for attempt, number in begun if attempt == 2] == list(range(5, 12))
    assert most == 4


class Charge(Struct):
    """What a provider answers."""

    id: str
    at: datetime


async def test_a_step_runs_once_and_its_result_comes_back_as_it_was(url: str) -> None:
    app = App(url)
    calls: list[int] = []
    moment = datetime(2026, 5, 1, tzinfo=UTC)

    async def charge(cents: int) -> Charge:
        calls.append(cents)
        return Charge("c1", moment)

    async def nothing() -> None:
        calls.append(0)

    @app.task(retry=RETRY)
    async def buy() -> str:
        charged = await current().step("charge", charge, 1999)
        await current().step("nothing", nothing)
        assert charged == Charge("c1", moment)
        if current().attempt < 3:
            raise ConnectionError
        return charged.id

    async with app, app.working():
        assert await (await buy.defer()).result(SOON) == "c1"
    assert calls == [1999, 0]


async def test_a_checkpoint_is_restored_by_the_next_run(url: str) -> None:
    app = App(url)
    seen: list[int | None] = []

    @app.task(retry=RETRY)
    async def count() -> int:
        at = await current().restore(int)
        seen.append(at)
        for number in range(at or 0, 5):
            if number == 2 * current().attempt:
                raise ConnectionError
            await current().checkpoint(number + 1)
        return current().attempt

    async with app, app.working():
        assert await (await count.defer()).result(SOON) == 3
    assert seen == [None, 2, 4]


async def says(job: JobHandle[int], progress: Progress | None) -> None:
    with anyio.fail_after(SOON):
        while await job.progress() != progress:  # noqa: ASYNC110 - it can only be asked after
            await anyio.sleep(0.01)


async def test_progress_is_seen_by_the_handle_while_the_job_lives(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskq.ledger.notes.EVERY", 0.01)
    app = App(url)
    go_on = anyio.Event()

    @app.task
    async def long() -> int:
        current().progress(3, 10)
        await go_on.wait()
        return 1

    @app.task
    def in_a_thread() -> int:
        current().progress(1)
        anyio.from_thread.run(go_on.wait)
        return 1

    async with app, app.working():
        for task, said in ((long, Progress(3, 10)), (in_a_thread, Progress(1))):
            go_on = anyio.Event()
            job = await task.defer()
            await says(job, said)
            go_on.set()
            assert await job.result(SOON) == 1
            await says(job, None)


async def test_a_kill_repeats_what_was_done_behind_an_item_that_was_not() -> None:
    app = App("memory://", lease=3600)
    done: list[tuple[int, int]] = []
    hung: list[int] = []

    @app.task
    async def walk() -> int:
        losses = current().losses

        async def handle(number: int) -> None:
            if number == 3 and not losses:
                hung.append(number)
                await anyio.sleep_forever()
            done.append((losses, number))

        await current().each(range(8), handle, window=3, every=1)
        return losses

    async with app:
        job = await walk.defer()
        async with app.working() as first:
            await wait_until(lambda: (0, 5) in done)
            (run,) = first.running
            first.quiet(True)
            async with app.working():
                await hand_over(app, run, lambda: (1, 7) in done)
                assert await job.result(SOON) == 1
            run.ask(Interrupted())
    assert [number for losses, number in done if not losses] == [0, 1, 2, 4, 5]
    assert [number for losses, number in done if losses] == [3, 4, 5, 6, 7]


async def test_a_draining_worker_lets_the_items_in_progress_end_and_begins_no_further_one() -> None:
    app = App("memory://", grace=3600)
    done: list[int] = []
    gate = anyio.Event()

    @app.task
    async def walk() -> list[int]:
        async def handle(number: int) -> None:
            if number in (4, 5):
                await gate.wait()
            done.append(number)

        await current().each(range(10), handle, window=3)
        return [current().attempt, current().losses]

    async with app:
        job = await walk.defer()
        async with app.working() as worker:
            await wait_until(lambda: 6 in done)
            worker.drain()
            await wait_until(lambda: all(run.current is not None and run.current.stopping for run in worker.running))
            gate.set()
        assert done == [0, 1, 2, 3, 6, 4, 5]
        async with app.working():
            assert await job.result(SOON) == [1, 0]
    assert done == [0, 1, 2, 3, 6, 4, 5, 7, 8, 9]


async def test_an_item_that_fails_ends_a_run_whose_source_is_silent_and_the_source_is_closed() -> None:
    app = App("memory://")
    seen: list[object] = []

    async def source() -> AsyncIterator[int]:
        try:
            yield 0
            yield 1
            yield 2
            await anyio.sleep_forever()
        finally:
            seen.append("closed")

    @app.task(retry=Retry.never())
    async def walk() -> None:
        async def handle(number: int) -> None:
            if number:
                raise (ValueError, KeyError)[number - 1]("this one")
            seen.append(number)

        await current().each(source(), handle, window=4)

    async with app:
        await walk.defer()
        worked = await run_until_idle(app)
    assert [type(error) for error in worked.failures] == [ValueError]
    assert seen == [0, "closed"]


async def test_a_source_that_fails_fails_the_run_when_what_is_in_progress_has_ended() -> None:
    app = App("memory://")
    done: list[int] = []

    def source() -> Iterator[int]:
        yield 0
        raise ValueError("no more")

    @app.task(retry=Retry.never())
    async def walk() -> None:
        async def handle(number: int) -> None:
            await anyio.lowlevel.checkpoint()
            done.append(number)

        await current().each(source(), handle, window=4)

    async with app:
        job = await walk.defer()
        worked = await run_until_idle(app)
        assert await notes_of(app, job.id) is not None
    assert [str(error) for error in worked.failures] == ["no more"]
    assert done == [0]


# Under the virtual clock


async def test_a_run_that_is_cut_off_cancels_its_items(clock: VirtualClock) -> None:
    app = App("memory://")
    cancelled: list[int] = []

    @app.task(timeout=10, retry=Retry.never())
    async def walk() -> None:
        async def handle(number: int) -> None:
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise

        await current().each(range(10), handle, window=3)

    async with app, app.working():
        await walk.defer()
        await clock.advance(20)
        assert sorted(cancelled) == [0, 1, 2]


async def test_what_is_done_is_written_every_few_seconds_and_no_oftener(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task
    async def walk() -> None:
        async for _ in current().iterate(range(100)):
            await anyio.sleep(1)

    async with app, app.working():
        job = await walk.defer()
        written: set[bytes | None] = set()
        for _ in range(20):
            await clock.advance(1)
            written.add(await notes_of(app, job.id))
    # The first time there is nothing yet.
    assert 3 <= len(written) <= 1 + 20 // EVERY


@pytest.mark.parametrize("window", [None, 2])
async def test_items_that_take_longer_than_the_grace_are_told_of_once_a_run(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture, window: int | None
) -> None:
    app = App("memory://", grace=30)

    @app.task
    async def walk(seconds: float) -> None:
        if window is None:
            async for _ in current().iterate(range(3)):
                await anyio.sleep(seconds)
        else:
            await current().each(range(3), lambda _: anyio.sleep(seconds), window=window)

    async with app, app.working():
        await walk.defer(29)
        await clock.advance(300)
        assert "the grace" not in caplog.text
        await walk.defer(40)
        await clock.advance(300)
    assert caplog.text.count("an item took 40 s, longer than the grace of 30 s") == 1


async def test_a_dead_letters_notes_stay_so_that_it_goes_on_when_it_is_revived() -> None:
    app = App("memory://")
    done: list[int] = []
    broken = True

    @app.task(retry=Retry.never())
    async def walk() -> None:
        async for number in current().iterate(range(4)):
            if number == 2 and broken:
                raise ValueError
            done.append(number)

    async with app:
        job = await walk.defer()
        await run_until_idle(app)
        assert await job.status() == "failed" or await job.status() == "dead"
        broken = False
        assert await app.admin.revive([job.ref]) == ["revived"]
        await run_until_idle(app)
        assert await notes_of(app, job.id) is None
    assert done == [0, 1, 2, 3]


async def test_a_dead_letters_notes_are_not_kept_for_ever(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(retry=Retry.never())
    async def walk() -> None:
        async for _ in current().iterate(range(4)):
            raise ValueError

    async with app:
        job = await walk.defer()
        await run_until_idle(app)
        await app.store.get("any")
        await clock.advance(KEPT + 1)
        assert await notes_of(app, job.id) is None


async def test_a_later_job_of_the_same_id_begins_at_the_beginning() -> None:
    """Also when the worker died between the ack of the earlier one and forgetting its notes."""
    app = App("memory://")
    done: list[int] = []

    @app.task
    async def walk() -> None:
        async for number in current().iterate(range(3), every=1):
            await anyio.lowlevel.checkpoint()
            done.append(number)

    async with app:
        job = await walk.options(id="walk").defer()
        forget, store = app.store.swap, app.store
        left_behind: list[bytes] = []

        async def swap(key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
            if new is None and old is not None:
                left_behind.append(old)
                return True
            return await forget(key, old, new, ttl=ttl)

        store.swap = swap  # type: ignore[method-assign]
        await run_until_idle(app)
        store.swap = forget  # type: ignore[method-assign]
        assert left_behind == [await notes_of(app, job.id)]
        await walk.options(id="walk").defer()
        await run_until_idle(app)
    assert done == [0, 1, 2] * 2


async def test_a_job_that_is_cancelled_between_its_runs_leaves_nothing(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(retry=Retry.fixed(5, 60))
    async def walk() -> None:
        async for number in current().iterate(range(3)):
            if number:
                raise ConnectionError

    async with app, app.working():
        job = await walk.defer()
        await clock.advance(1)
        assert await notes_of(app, job.id) is not None
        await job.cancel()
        await clock.advance(1)
        assert await notes_of(app, job.id) is None


async def changed() -> None:
    async for item in current().iterate("abc" if current().attempt == 1 else "axc", key=str.upper):
        if item == "c":
            raise ConnectionError


async def shortened() -> None:
    async for item in current().iterate("abc" if current().attempt == 1 else "a"):
        if item == "c":
            raise ConnectionError


async def without_a_key() -> None:
    async for _ in current().iterate(lambda _: "abc"):  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        pass


async def with_a_key_that_does_not_come_back() -> None:
    async for _ in current().iterate([1], key=lambda item: {item}):
        pass


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (changed, "item 2 was \"B\" and is 'X' now"),
        (shortened, "was at item 2 and has only 1 now"),
        (without_a_key, "needs key="),
        (with_a_key_that_does_not_come_back, "a cursor: a set would not arrive"),
    ],
)
async def test_a_source_that_cannot_be_gone_on_with_is_refused(handler: Any, said: str) -> None:
    app = App("memory://")
    task = app.task(retry=Retry.fixed(2, 0), name="wrong")(handler)

    async with app:
        await task.defer()
        await app.run_worker(until="empty")
        (dead,) = await app.admin.list_jobs("default", "dead", after=None, limit=1)
    assert said.encode() in (dead.outcome or b"").replace(b'\\"', b'"')


async def answer() -> int:
    return 1


async def a_tuple():  # type: ignore[no-untyped-def]
    return (1, 2)


async def twice_a_step() -> None:
    await current().step("a", answer)
    await current().step("a", answer)


async def two_iterations() -> None:
    for _ in range(2):
        async for _ in current().iterate("abc"):
            pass


async def step_of_nothing() -> None:
    await current().step("a", lambda: 1)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]


async def step_without_a_type() -> None:
    await current().step("a", a_tuple)


async def every_none() -> None:
    async for _ in current().iterate("abc", every=0):
        pass


async def no_window() -> None:
    await current().each("abc", answer_for, window=0)


async def answer_for(_: str) -> None: ...


async def in_a_transaction() -> None:
    async with current().transaction():
        await current().step("a", answer)


async def kept_for_ever() -> None:
    async with current().once("a", on_unknown="raise", keep=float("inf")):
        pass


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (twice_a_step, "'step a' was used in this run already"),
        (two_iterations, "'iteration items' was used in this run already"),
        (step_of_nothing, "give a coroutine function"),
        (step_without_a_type, "the result of step 'a': a tuple would not arrive"),
        (every_none, "every=0"),
        (no_window, "window=0: give how many"),
        (in_a_transaction, "write your own row instead"),
        (kept_for_ever, "keep=inf"),
    ],
)
async def test_what_cannot_be_remembered_is_refused_with_the_remedy(handler: Any, said: str) -> None:
    app = App("memory://")
    task = app.task(retry=Retry.never(), name="wrong")(handler)
    async with app:
        with pytest.raises(Exception, match=said):
            await task.run_inline()


async def test_a_job_of_a_transaction_task_remembers_nothing_that_could_be_undone() -> None:
    app = App("memory://")

    @app.task(transaction=True, retry=Retry.never())
    async def write() -> None:
        await current().step("a", answer)

    async with app:
        await write.defer()
        await app.run_worker(until="idle")
        (dead,) = await app.admin.list_jobs("default", "dead", after=None, limit=1)
    assert b"write your own row instead" in (dead.outcome or b"")


# Precondition


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_job_whose_precondition_does_not_hold_is_discarded_with_a_reason(is_async: bool) -> None:
    app = App("memory://")
    finished = heard(app, JobFinished)
    ran: list[int] = []

    def is_open(invoice: int, *, dry: bool = False) -> bool:
        assert current().attempt == 1
        return invoice == 1 and not dry

    async def is_open_too(invoice: int, *, dry: bool = False) -> bool:
        return is_open(invoice, dry=dry)

    @app.task(precondition=is_open_too if is_async else is_open, keep=60)
    async def remind(invoice: int, *, dry: bool = False) -> None:
        assert not dry
        ran.append(invoice)

    async with app:
        jobs = [await remind.defer(1), await remind.defer(2), await remind.defer(1, dry=True)]
        await run_until_idle(app)
        ends = {event.id: event.end for event in finished}
        assert [ends[job.id] for job in jobs] == ["returned", "discarded", "discarded"]
        assert "says that it is not to run" in (await jobs[1].outcome()).reason
    assert ran == [1]


def test_a_precondition_must_take_what_its_task_takes() -> None:
    app = App("memory://")

    def is_open() -> bool:
        return True

    with pytest.raises(ConfigError, match=r"is_open\(\) must take the task's arguments"):

        @app.task(precondition=is_open)
        async def remind(invoice: int) -> None: ...

    with pytest.raises(ConfigError, match="precondition=3"):
        app.task(precondition=3)(answer)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
