"""What is to be collected while the broker is out of reach: each item is run with once, whoever dies."""

from typing import Any

import anyio
import msgspec
import pytest
from anyio import to_thread
from msgspec.structs import replace

from taskq import App, Collect, Task
from taskq.broker import Broker
from taskq.collect import Kept
from taskq.errors import BrokerRejected, SpoolFull
from taskq.events import JobsRecovered, JobsSpooled
from taskq.job import Job
from taskq.keptitems import gather
from taskq.spool import Ways, spooling
from taskq.spoolfile import Bounds, SpoolFile
from taskq.testing import run_until_idle
from tests.worker.moves import SOON, heard, wait_until
from tests.worker.tap import Tap
from tests.worker.test_spool import handed_over, outage, spool

__all__ = ["spool"]

pytestmark = pytest.mark.anyio

PLENTY = Bounds(1 << 20, 3600.0)


def third(number: int) -> int:
    return number % 3


def counting(app: App, collect: Collect) -> tuple[Task[[int], None], list[list[int]]]:
    """A task that counts, and its runs."""
    runs: list[list[int]] = []

    @app.task(collect=collect, name="count")
    async def count(numbers: list[int]) -> None:
        runs.append(sorted(numbers))

    return count, runs


async def test_items_wait_for_the_broker_and_each_is_run_with_once_at_its_time(tap: Tap, spool: str) -> None:
    app = App("memory://", spool=spool)
    count, runs = counting(app, Collect(size=50, wait=0.2, key=third))
    kept, recovered = heard(app, JobsSpooled), heard(app, JobsRecovered)
    async with app:
        await count.defer(0)
        with outage(tap):
            for n in range(1, 100):
                assert (await count.defer(n)).added
            async with anyio.create_task_group() as group:
                for n in range(100, 400):
                    group.start_soon(count.defer, n)
            await to_thread.run_sync(count.defer_sync, 400)
        await handed_over(spool)
        # Who has not noticed yet that the spool is empty puts it there, too.
        await count.defer(401)
        await handed_over(spool)
        await app.run_worker(until="empty")
    assert sorted(n for run in runs for n in run) == list(range(402))
    assert all(len(run) <= 50 and len(set(map(third, run))) == 1 for run in runs)
    assert len(runs) <= 15
    assert sum(event.jobs for event in kept) == sum(event.jobs for event in recovered) >= 400


async def left_behind(tap: Tap, url: str, spool: str, collect: Collect, *numbers: int) -> SpoolFile:
    """The file of an app that ended while its broker was out of reach."""
    app = App(url, spool=spool)
    count, _ = counting(app, collect)
    async with app:
        tap.broken, tap.store_is_away = "before", True
        for n in numbers:
            await count.defer(n)
    tap.broken, tap.store_is_away = "no", False
    return SpoolFile(spool, PLENTY)


async def test_a_handover_of_items_that_dies_anywhere_adds_nothing_twice(tap: Tap, url: str, spool: str) -> None:
    collect = Collect(size=5, wait=3600)
    file = await left_behind(tap, url, spool, collect, 0, 1, 2)
    app = App(url)
    _, runs = counting(app, collect)
    async with app:
        store = app.backend.store
        assert store is not None
        (lot,) = file.lots()
        count, early = await gather(store, lot.key, lot.items)
        assert early is not None
        assert (count, early.delay) == (3, 3600)
        # Dies here. Meanwhile others come, more than a run takes.
        kept = msgspec.msgpack.decode(lot.items[early.id], type=Kept)
        for n in (3, 4, 5):
            more = msgspec.msgpack.encode(replace(kept, body=f"{n}".encode()))
            assert file.put_items(lot.key, {f"{n}" * 32: more}) is None
        (lot,) = file.lots()
        count, job = await gather(store, lot.key, lot.items)
        # The same set; enough have gathered.
        assert (count, job) == (5, replace(early, delay=0.0))
        file.gathered(lot, count, job)
        (row,) = file.first()
        # It has waited for as long as the first of them.
        assert (row.at, row.job) == (lot.at, job)
        assert [len(left.items) for left in file.lots()] == [1]
        for _ in range(2):
            # Dies after it, and enqueues what has ended once more.
            await app.backend.broker.enqueue([row.job])
            await run_until_idle(app)
        assert runs == [[0, 1, 2, 3, 4]]
    file.close()


@pytest.mark.parametrize("began", [False, True])
async def test_an_item_whose_answer_was_lost_is_run_with_once(tap: Tap, spool: str, *, began: bool) -> None:
    app = App("memory://", spool=spool)
    runs: list[list[int]] = []
    starts, ends = anyio.Event(), anyio.Event()
    file = SpoolFile(spool, PLENTY)

    @app.task(collect=Collect(wait=0.3))
    async def count(numbers: list[int]) -> None:
        runs.append(numbers)
        starts.set()
        await ends.wait()

    assert file.take_turn()
    async with app:
        await count.defer(0)
        tap.adding_loses_answers = True
        await count.defer(1)
        tap.adding_loses_answers = False
        async with app.working():
            if began:
                await starts.wait()
            file.close()
            await handed_over(spool)
            ends.set()
            await wait_until(lambda: sum(map(len, runs)) == 2)
        await run_until_idle(app, until="empty")
    assert sorted(n for run in runs for n in run) == [0, 1]


@pytest.mark.parametrize(
    ("options", "words"), [({"spool_size": 400}, "bytes already"), ({"spool_age": 1e-9}, "longer than")]
)
async def test_a_full_spool_refuses_items_and_what_is_beside_them(
    tap: Tap, spool: str, options: dict[str, Any], words: str
) -> None:
    app = App("memory://", spool=spool, **options)
    count, runs = counting(app, Collect(wait=0.1))

    @app.task
    async def note(text: str) -> None: ...

    async with app:
        with outage(tap):
            await count.defer(0)
            for refused in (count.defer(10**200), note.defer("x" * 200)):
                with pytest.raises(SpoolFull, match=words):
                    await refused
        await handed_over(spool)
        await run_until_idle(app, until="empty")
    assert runs == [[0]]


async def test_items_of_a_queue_of_another_broker_reach_it(tap: Tap, spool: str) -> None:
    pools = {"far": {"queues": ["far"], "broker": "far"}}
    app = App("memory://", brokers={"far": "memory://"}, pools=pools, spool=spool)
    runs: list[list[int]] = []

    @app.task(collect=Collect(wait=0.1), queue="far")
    async def count(numbers: list[int]) -> None:
        runs.append(sorted(numbers))

    async with app:
        with outage(tap):
            for n in range(3):
                await count.defer(n)
        await handed_over(f"{spool}.far")
        await run_until_idle(app, until="empty")
    assert runs == [[0, 1, 2]]


async def test_items_that_the_store_refuses_stay_in_the_spool_with_the_reason(spool: str) -> None:
    async def refuse(*_given: object) -> tuple[int, Job | None]:
        raise BrokerRejected("read only")

    async def nothing(*_given: object) -> None: ...

    async with App("memory://") as app:
        broker: Broker = app.backend.broker
        file = SpoolFile(spool, PLENTY)
        async with spooling(broker, file, Ways(lambda _: True, nothing, refuse, lambda _: None)) as spooled:
            await spooled.keep_items("key", {"a": b"", "b": b""})
            with anyio.fail_after(SOON):
                while spooled.holds:  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(0.02)
    file = SpoolFile(spool, PLENTY)
    assert file.refused() == ["read only"] * 2
    file.close()
