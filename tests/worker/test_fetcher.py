"""The fetcher: the slots are full, and nothing is hoarded."""

import anyio
import pytest

from taskq import App
from taskq.events import JobAgain, WorkerStopped
from taskq.testing import VirtualClock
from taskq.worker.worker import Worker
from tests.worker.moves import SOON, heard, wait_until
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


async def test_no_more_is_held_than_there_are_slots_while_jobs_are_long(tap: Tap) -> None:
    app = App("memory://", slots=5)
    gate = anyio.Event()

    @app.task
    async def wait() -> None:
        await gate.wait()

    async with app:
        jobs = [await wait.defer() for _ in range(20)]
        async with app.working() as worker:
            await wait_until(lambda: len(list(worker.running)) == 5)
            assert tap.most_held == 5
            gate.set()
            await wait_until(lambda: sum(tap.sizes("settle")) == len(jobs))


async def test_no_more_is_held_than_slots_and_one_refill_while_jobs_are_short(tap: Tap) -> None:
    app = App("memory://", slots=10)

    @app.task
    async def nothing() -> None: ...

    async with app:
        await app.defer_many(nothing.call() for _ in range(1000))
        with anyio.fail_after(SOON):
            await app.run_worker(until="idle")
    assert sum(tap.sizes("settle")) == 1000
    assert tap.most_held <= 10 + 12 * 10


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("takes", "least", "most"), [(0.0, 40, 50), (0.005, 60, 130)], ids=["quick", "slow"])
async def test_more_is_fetched_ahead_where_a_fetch_takes_long(tap: Tap, takes: float, least: int, most: int) -> None:
    app = App("memory://", slots=10)
    tap.fetch_takes = takes

    @app.task
    async def short() -> None:
        await anyio.sleep(0.0001)

    async with app:
        await app.defer_many(short.call() for _ in range(3000))
        await app.run_worker(until="idle")
    assert least <= tap.most_held <= most


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("takes", "least", "most"), [(0.0, 40, 50), (0.005, 60, 90)], ids=["quick", "slow"])
async def test_members_that_leave_their_batch_take_no_place_of_those_that_may_run(
    tap: Tap, takes: float, least: int, most: int
) -> None:
    app = App("memory://", slots=10)
    tap.leaves_apart, tap.leaving_takes = True, takes

    @app.task
    async def short() -> None:
        await anyio.sleep(0.0001)

    async with app:
        async with app.batch("b") as batch:
            await batch.add(short.call() for _ in range(3000))
        await app.run_worker(until="idle")
    assert least <= tap.most_held <= most


@pytest.mark.usefixtures("clock")
async def test_a_job_does_not_wait_behind_those_that_take_far_longer_than_a_round_trip(tap: Tap) -> None:
    """Another worker may have a slot for it."""
    app = App("memory://", slots=4)

    @app.task
    async def long() -> None:
        await anyio.sleep(1)

    async with app, app.working() as worker:
        for wave in (8, 2, 3):  # It learns how long they take; some come; more come than there is room for.
            await app.defer_many(long.call() for _ in range(wave))
            if wave == 8:
                await wait_until(lambda: sum(tap.sizes("settle")) == 8)
            else:
                await wait_until(lambda: len(list(worker.running)) >= 2)
        await wait_until(lambda: sum(tap.sizes("settle")) == 13)
    assert tap.most_held == 4


@pytest.mark.usefixtures("clock")
async def test_a_fetch_that_waited_for_its_jobs_is_not_taken_for_a_slow_one(tap: Tap) -> None:
    app = App("memory://", slots=2)

    @app.task
    async def long() -> None:
        await anyio.sleep(1)

    async with app, app.working() as worker:
        for _ in range(20):
            await anyio.sleep(5)
            await app.defer_many(long.call() for _ in range(2))
            await wait_until(lambda: not list(worker.running) and not tap.held)
        await long.defer()
        await wait_until(lambda: len(list(worker.running)) == 1)
        await app.defer_many(long.call() for _ in range(5))
        await wait_until(lambda: sum(tap.sizes("settle")) == 46)
    assert tap.most_held == 2


async def test_what_was_fetched_ahead_of_short_jobs_does_not_wait_behind_long_ones(
    tap: Tap, clock: VirtualClock
) -> None:
    """Another worker may have slots for it."""
    app = App("memory://", slots=4)
    again = heard(app, JobAgain)
    done: list[float] = []

    @app.task
    async def work(seconds: float) -> None:
        await anyio.sleep(seconds)
        done.append(seconds)

    async with app:
        await app.defer_many(work.call(seconds) for seconds in [0.001] * 200 + [3600.0] * 40)
        async with app.working() as worker:
            await wait_until(lambda: len(done) == 200)
            assert tap.most_held > 8
            await clock.advance(2)
            assert len(worker.running) == len(tap.held) == 4
            assert not any(event.counted or event.after for event in again)
            async with app.working(slots=36):
                await clock.advance(3600)
    assert len(done) == 240


async def test_a_fetch_waits_for_a_settlement_that_brings_more_room_than_there_is(tap: Tap) -> None:
    app = App("memory://", slots=10)
    gates = [anyio.Event() for _ in range(3)]

    @app.task
    async def wait(gate: int) -> None:
        await gates[gate].wait()

    async with app:
        await app.defer_many(wait.call(gate) for gate in [0] * 2 + [1] * 6 + [2] * 20)
        async with app.working() as worker:
            await wait_until(lambda: len(list(worker.running)) == 10)
            tap.answering = anyio.Event()
            gates[0].set()
            await wait_until(lambda: tap.sizes("settle") == [2])
            gates[1].set()
            await wait_until(lambda: len(list(worker.running)) == 2)
            tap.answering.set()
            await wait_until(lambda: len(list(worker.running)) == 10)
            gates[2].set()
    assert [size for size in tap.sizes("fetch") if size][:2] == [10, 8]


async def test_an_urgent_job_is_next_on_one_slot(url: str) -> None:
    app = App(url, slots=1)
    order: list[str] = []
    started, gate = anyio.Event(), anyio.Event()

    @app.task
    async def note(name: str) -> None:
        order.append(name)
        if name == "running":
            started.set()
            await gate.wait()

    async with app:
        await note.defer("running")
        async with app.working():
            with anyio.fail_after(SOON):
                await started.wait()
            await note.defer("first")
            await note.defer("second")
            await note.options(priority=9).defer("urgent")
            gate.set()
            await wait_until(lambda: len(order) == 4)
    assert order == ["running", "urgent", "first", "second"]


async def test_a_slot_is_filled_again_while_others_run_on(url: str) -> None:
    app = App(url, slots=2)
    gate = anyio.Event()

    @app.task
    async def long() -> None:
        await gate.wait()

    @app.task
    async def short(n: int) -> int:
        return n

    async with app, app.working():
        slow = await long.defer()
        jobs = [await short.defer(n) for n in range(10)]
        assert [await job.result(SOON) for job in jobs] == list(range(10))
        assert await slow.status() == "leased"
        gate.set()


async def test_the_first_queue_goes_first(url: str) -> None:
    app = App(url, slots=1, queues=("urgent", "other"))
    order: list[str] = []

    @app.task
    async def note(name: str) -> None:
        order.append(name)

    async with app:
        await note.options(queue="other", priority=9).defer("other")
        await note.options(queue="urgent").defer("urgent")
        await app.run_worker(until="idle")
    assert order == ["urgent", "other"]


async def test_a_worker_ends_after_so_many_jobs(tap: Tap) -> None:
    app = App("memory://", slots=10)
    ran: list[int] = []

    @app.task
    async def note(n: int) -> None:
        ran.append(n)

    async with app:
        for n in range(20):
            await note.defer(n)
        with anyio.fail_after(SOON):
            await app.run_worker(max_jobs=7)
        assert len(ran) == 7
        (stats,) = await app.admin.stats(["default"])
        assert stats.ready == 13
    assert tap.most_held <= 7


async def test_a_quiet_worker_fetches_nothing_until_it_goes_on(url: str) -> None:
    app = App(url)

    @app.task
    async def answer() -> int:
        return 42

    async with app, app.working() as worker:
        worker.quiet(True)
        job = await answer.defer()
        await _one_look(worker)
        worker.quiet(False)
        assert await job.result(SOON) == 42


async def _one_look(worker: Worker) -> None:
    """Let pass what the loop has to do now."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert not list(worker.running)


async def test_what_a_fetch_brings_to_a_quiet_worker_is_given_back(tap: Tap) -> None:
    app = App("memory://")
    again = heard(app, JobAgain)
    tap.delivering = anyio.Event()

    @app.task
    async def answer() -> int:
        return 42

    async with app:
        job = await answer.defer()
        async with app.working() as worker:
            await wait_until(lambda: tap.held)
            worker.quiet(True)
            tap.delivering.set()
            await wait_until(lambda: again)
            assert [(event.id, event.after, event.counted) for event in again] == [(job.id, 0, False)]
            assert await job.status() == "ready"
            worker.quiet(False)
            assert await job.result(SOON) == 42


async def test_what_a_fetch_brings_during_a_drain_is_given_back(url: str) -> None:
    app = App(url)
    stopped = heard(app, WorkerStopped)

    @app.task
    async def answer() -> int:
        return 42

    async with app:
        async with app.working() as worker:
            await anyio.lowlevel.checkpoint()
            worker.drain()
            job = await answer.defer()
        assert len(stopped) == 1
        # Either the fetch under way had it, and gave it back, or nobody had: it is there, and nothing was lost.
        (delivery,) = await app.backend.broker.fetch(["default"], 1, lease=30, wait=0)
        assert (delivery.job.id, delivery.attempt, delivery.losses) == (job.id, 1, 0)


async def test_what_has_come_begins_before_the_next_call_is_made(tap: Tap) -> None:
    app = App("memory://", slots=10)
    under_way: list[int] = []

    @app.task
    async def look() -> None:
        under_way.append(tap.tried - len(tap.calls))

    async with app:
        await look.defer()
        await app.run_worker(max_jobs=1)
        await look.defer()
        with anyio.fail_after(SOON):
            await app.run_worker(until="idle")
    assert under_way == [0, 0]
