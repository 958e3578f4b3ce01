"""Deferring while the broker is out of reach: nothing is lost, doubled, overtaken or refused silently."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from taskq import App, BatchReport, Collect, Debounce, gather
from taskq.errors import BatchFull, BrokerUnavailable, ConfigError, PartlyEnqueued, ResultNotKept, SpoolFull
from taskq.events import JobDropped, JobsRecovered, JobsSpooled
from taskq.flow import Ends
from taskq.job import Job
from taskq.spoolfile import Bounds, SpoolFile
from taskq.testing import deferred
from tests.worker.moves import SOON, wait_until
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


@pytest.fixture
def spool(tmp_path: Path) -> str:
    return str(tmp_path / "spool.db")


async def arguments(app: App, count: int) -> list[object]:
    """The arguments of what is deferred, in the order of its arrival, once that is so many."""
    with anyio.fail_after(SOON):
        while len(await deferred(app)) < count:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.02)
    return [job.arguments["n"] for job in sorted(await deferred(app), key=lambda job: job.record.due)]


async def handed_over(spool: str) -> None:
    """Return when the spool is empty."""
    file = SpoolFile(spool, Bounds(1, 1.0))
    with anyio.fail_after(SOON):
        while file.holds():  # noqa: ASYNC110 - as above
            await anyio.sleep(0.02)
    file.close()


async def test_jobs_wait_for_the_broker_and_arrive_in_order_without_new_traffic(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        await note.defer(0)
        tap.broken = "before"
        handles = [await note.defer(n) for n in range(1, 4)]
        handles += await app.defer_many(note.call(n) for n in range(4, 2000))
        assert all(handle.added for handle in handles)
        tap.broken = "no"
        assert await arguments(app, 2000) == list(range(2000))
        assert {job.record.job.id for job in await deferred(app)} > {handle.id for handle in handles}


@contextmanager
def outage(tap: Tap) -> Generator[None]:
    """The broker and its store are out of reach."""
    tap.broken, tap.store_is_away = "before", True
    yield
    tap.broken, tap.store_is_away = "no", False


async def test_chains_gathers_and_batches_wait_for_the_broker(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)
    ran: list[int] = []

    @app.task
    async def note(n: int) -> int:
        ran.append(n)
        return n + 1

    @app.task
    async def add(numbers: tuple[int, int]) -> int:
        return sum(numbers)

    @app.task
    async def told(report: BatchReport) -> int:
        return report.succeeded

    async with app:
        with outage(tap):
            chain = await app.defer(note.call(1).then(note))
            both = await app.defer(gather(note.call(10), note.call(20)))
            added = await app.defer(gather(note.call(30), note.call(40)).then(add))
            async with app.batch("outer", then=told) as outer:
                await outer.add([note.call(50)])
                async with app.batch("inner", parent="outer") as inner:
                    assert await inner.add(note.call(n) for n in range(1000, 2500)) == 1500
            with pytest.raises(BrokerUnavailable):
                await outer.status()
        async with app.working():
            assert await chain.result(SOON) == 3
            assert await both.result(SOON) == (11, 21)
            assert await added.result(SOON) == 72
            assert await outer.wait(SOON) == BatchReport("outer", 2, 0)
            assert await inner == BatchReport("inner", 1500, 0)
            assert await told.handle("outer.succeeded").result(SOON) == 2
    assert sorted(ran) == [1, 2, 10, 20, 30, 40, 50, *range(1000, 2500)]


async def test_a_batch_goes_on_in_the_spool_when_the_broker_goes_away(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        async with app.batch("b") as batch:
            await batch.add(note.call(n) for n in range(1000))
            with outage(tap):
                await batch.add(note.call(n) for n in range(1000, 1010))
            await batch.add(note.call(n) for n in range(1010, 1020))
        await handed_over(spool)
        status = await batch.status()
        assert status is not None
        assert (status.total, status.pending, status.sealed) == (1020, 1020, True)
        assert {*await arguments(app, 1020)} == {*range(1020)}


async def test_a_producer_that_died_within_its_batch_while_the_broker_was_away_begins_again_without_doubles(
    tap: Tap, spool: str
) -> None:
    app = App("memory://", spool=spool)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        with outage(tap):
            for fails in (True, False):
                with suppress(ZeroDivisionError):
                    async with app.batch("b") as batch:
                        await batch.add(note.call(n) for n in range(1500))
                        if fails:
                            raise ZeroDivisionError
                        await batch.add([note.call(1500)])
        assert {*await arguments(app, 1501)} == {*range(1501)}
        await handed_over(spool)
        assert len(await deferred(app)) == 1501
        await app.run_worker(until="empty")
        assert await app.batch("b") == BatchReport("b", 1501, 0)


async def test_members_refused_when_the_broker_is_back_have_failed_and_stay_in_the_spool(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)

    @app.task(unique=("n",), on_conflict="raise")
    async def note(n: int) -> None: ...

    async with app:
        with outage(tap):
            async with app.batch("b") as batch:
                await batch.add(note.call(n) for n in (1, 2, 2, 3))
        await handed_over(spool)
        await app.run_worker(until="empty")
        assert await batch == BatchReport("b", 4, 1, ends=Ends(failed=1))
        assert [ref.id for ref in await batch.failures()] == ["b.0.2"]
    file = SpoolFile(spool, Bounds(1 << 20, 60.0))
    (kept,) = file.refused()
    assert "1 of 4 members of batch b" in kept
    file.close()


async def test_what_comes_too_late_for_its_batch_is_refused_then_and_holds_up_nothing(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        async with app.batch("over"):
            pass
        with outage(tap):
            async with app.batch("over") as over:
                await over.add([note.call(0)])
            async with app.batch("child", parent="over") as child:
                await child.add([note.call(1)])
            await note.defer(2)
        assert await arguments(app, 1) == [2]
        await handed_over(spool)
        assert await over == BatchReport("over", 0, 0)
        assert await child.status() is None
    file = SpoolFile(spool, Bounds(1 << 20, 60.0))
    assert [reason.partition(":")[2] for reason in file.refused()] == [
        " it takes no more members",
        " it takes no more members",
        " nothing can be added to it",
    ]
    file.close()


async def test_a_full_spool_keeps_no_part_of_what_a_batch_adds_and_leaves_it_open(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool, spool_size=2000)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        batch = app.batch("b", most=102)
        with outage(tap), suppress(SpoolFull):
            async with batch:
                await batch.add([note.call(0)])
                with pytest.raises(SpoolFull):
                    await batch.add(note.call(n) for n in range(100))
                with pytest.raises(BatchFull):
                    await batch.add(note.call(n) for n in range(3))
                with pytest.raises(SpoolFull):
                    await app.defer(gather(*(note.call(n) for n in range(100))))
                raise SpoolFull("so that it is not sealed")
        assert await arguments(app, 1) == [0]
        await handed_over(spool)
        status = await batch.status()
        assert status is not None
        assert (status.total, status.sealed) == (1, False)


async def test_without_a_spool_deferring_fails(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def note() -> None: ...

    async with app:
        tap.broken = "before"
        with pytest.raises(BrokerUnavailable):
            await note.defer()


async def test_a_job_whose_answer_was_lost_is_there_once(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        tap.broken = "after"
        await note.defer(0)
        await note.defer(1)
        tap.broken = "no"
        assert await arguments(app, 2) == [0, 1]


async def test_unique_keys_count_when_the_broker_is_back(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)

    @app.task(unique="one")
    async def note(n: int) -> None: ...

    async with app:
        tap.broken = "before"
        for n in range(3):
            await note.defer(n)
        tap.broken = "no"
        assert await arguments(app, 1) == [0]
        await handed_over(spool)
        assert len(await deferred(app)) == 1


@pytest.mark.parametrize("debounce", [60, 0.001, Debounce(60, at_most=600)])
async def test_of_a_burst_the_last_call_is_left_when_the_broker_is_back(
    tap: Tap, spool: str, debounce: float | Debounce
) -> None:
    app = App("memory://", spool=spool)

    @app.task(debounce=debounce, unique="one")
    async def note(n: int) -> None: ...

    async with app:
        with outage(tap):
            for n in range(3):
                await note.defer(n)
        await handed_over(spool)
        assert await arguments(app, 1) == [2]


async def test_what_an_earlier_process_left_arrives_first(spool: str) -> None:
    app = App("memory://", spool=spool)
    left = SpoolFile(spool, Bounds(1 << 20, 60.0))

    @app.task
    async def note(n: int) -> None: ...

    assert left.put([replace(note.call(n).start(), id=f"0-left-{n}") for n in range(2)]) is None
    left.close()
    async with app:
        await note.defer(2)
        assert await arguments(app, 3) == [0, 1, 2]


async def test_two_processes_hand_over_one_file_and_one_of_them_at_a_time(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)
    other = SpoolFile(spool, Bounds(1 << 20, 60.0))

    @app.task
    async def note(n: int) -> None: ...

    assert other.take_turn()
    async with app:
        tap.broken = "before"
        await note.defer(0)
        tap.broken = "no"
        with anyio.move_on_after(1.5):
            await arguments(app, 1)
            raise AssertionError("it was not its turn")
        other.close()
        assert await arguments(app, 1) == [0]


@pytest.mark.parametrize(
    ("options", "words"), [({"spool_size": 400}, "bytes already"), ({"spool_age": 1e-9}, "longer than")]
)
async def test_a_full_spool_refuses_and_drops_nothing(
    tap: Tap, spool: str, options: dict[str, Any], words: str
) -> None:
    app = App("memory://", spool=spool, **options)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        tap.broken = "before"
        await note.defer(0)
        with pytest.raises(SpoolFull, match=words):
            await note.defer(2)
        with pytest.raises(PartlyEnqueued) as refused:
            await app.defer_many(note.call(n) for n in range(20, 40))
        assert all(isinstance(error, SpoolFull) for error in refused.value.errors.values())
        tap.broken = "no"
        assert await arguments(app, 1) == [0]


async def test_what_the_broker_refuses_later_stays_in_the_spool(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)

    @app.task(unique="one", on_conflict="raise")
    async def note(n: int) -> None: ...

    async with app:
        tap.broken = "before"
        for n in range(2):
            await note.defer(n)
        tap.broken = "no"
        assert await arguments(app, 1) == [0]
    file = SpoolFile(spool, Bounds(1 << 20, 60.0))
    assert file.first() == []
    (kept,) = file.refused()
    assert "one" in kept
    file.close()


def test_a_spooled_job_has_waited_what_it_waited() -> None:
    job = Job(id="a", task="t", body=b"", delay=10.0, expires_in=5.0)

    assert (job.aged(4).delay, job.aged(4).expires_in) == (6.0, 5.0)
    assert (job.aged(12).delay, job.aged(12).expires_in) == (0.0, 3.0)
    assert (job.aged(99).delay, job.aged(99).expires_in) == (0.0, 0.0)
    assert replace(job, delay=0.0, run_at=50.0).aged(99).expires_in == 5.0
    assert job.aged(-5) == job


@pytest.mark.parametrize("path", ["/proc/spool.db", "/none/spool.db", "/"])
async def test_a_spool_that_cannot_be_written_is_refused_when_the_app_opens(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        async with App("memory://", spool=path):
            pass


async def test_only_the_jobs_of_a_server_that_is_away_wait_and_are_tried_until_it_is_back(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        tap.away = {"away"}
        await app.defer_many(note.options(queue=("away", "here")[n % 2]).call(n) for n in range(10))
        assert await arguments(app, 5) == [1, 3, 5, 7, 9]
        tried = tap.tried
        await wait_until(lambda: tap.tried > tried + 1)
        tap.away = set()
        assert {*await arguments(app, 10)} == {*range(10)}


async def test_what_may_be_lost_is_dropped_and_counted_and_told_of_once(
    tap: Tap, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("memory://")
    dropped: list[JobDropped] = []
    app.events.subscribe(JobDropped, dropped.append)

    @app.task(on_outage="drop", keep=60)
    async def warm(n: int) -> None: ...

    @app.task(on_outage="drop", collect=Collect(size=2, wait=60))
    async def views(posts: list[int]) -> None: ...

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        with outage(tap):
            handle = await warm.defer(0)
            assert (handle.added, handle.dropped) == (False, True)
            with pytest.raises(ResultNotKept, match="was dropped"):
                await handle.result()
            assert all(handle.dropped for handle in await app.defer_many(warm.call(n) for n in range(1, 4)))
            assert (await views.defer(7)).dropped
            (plain,) = (await app.defer(warm.call(4))).jobs
            assert plain.dropped
            # Others may wait for what is part of a flow, and for whoever is beside it in a bulk.
            for refused in (app.defer(warm.call(5).then(note.call(6))), app.defer_many([warm.call(8), note.call(9)])):
                with pytest.raises(BrokerUnavailable):
                    await refused
        tap.away = {"default"}
        calls = [warm.call(10), warm.options(queue="q").call(11)]
        assert [answer.dropped async for answer in app.defer_each(calls)] == [True, False]
        tap.away = set()
        assert (await warm.defer(12)).added
    assert [event.task.rpartition(".")[2] for event in dropped] == [*["warm"] * 4, "views", "warm", "warm"]
    assert caplog.text.count("were dropped") == 1


async def test_a_spool_takes_nothing_of_tasks_that_do_not_want_it_and_tells_how_much_it_held(
    tap: Tap, spool: str
) -> None:
    app = App("memory://", spool=spool)
    kept, recovered = list[JobsSpooled](), list[JobsRecovered]()
    app.events.subscribe(JobsSpooled, kept.append)
    app.events.subscribe(JobsRecovered, recovered.append)

    @app.task(on_outage="drop")
    async def warm(n: int) -> None: ...

    @app.task(on_outage="raise")
    async def now(n: int) -> None: ...

    @app.task(on_outage="drop", collect=Collect())
    async def views(n: list[int]) -> None: ...

    @app.task(on_outage="raise", collect=Collect())
    async def clicks(n: list[int]) -> None: ...

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        with outage(tap):
            for _ in range(2):
                # Before anything is in the spool, and then.
                assert (await warm.defer(0)).dropped
                assert (await views.defer(0)).dropped
                for refused_at_once in (now, clicks):
                    with pytest.raises(BrokerUnavailable):
                        await refused_at_once.defer(1)
                await note.defer(2)
            with pytest.raises(PartlyEnqueued) as refused:
                await app.defer_many([note.call(2), now.call(3), warm.call(4)])
            assert [*refused.value.errors] == [1]
        assert await arguments(app, 3) == [2, 2, 2]
        await handed_over(spool)
    assert sum(event.jobs for event in kept) == sum(event.jobs for event in recovered) == 3
