"""Batches: many jobs, then one, exactly once, whatever becomes of producers, members and workers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import anyio
import pytest
from msgspec.structs import replace

from taskq import App, Batch, BatchReport, Death, Discard, Retry, current, gather
from taskq.errors import BatchSealed, BrokerUnavailable, ConfigError, PartlyEnqueued, ResultNotKept, ResultNotReady
from taskq.flow.members import RESUMED
from taskq.flow.places import numbered, numbered_behind
from taskq.flow.record import CHUNK, Ends, chunk_key, failed_key, first_key, names_of
from taskq.job import JobRef
from taskq.outcome import Outcome, Raised, Returned, decide
from taskq.sequel import plan_of
from taskq.store import Entry
from taskq.testing import run_until_idle
from taskq.worker.effects import Effects
from taskq.worker.run import Decided, Run
from tests.worker.conftest import tap as tap
from tests.worker.moves import SOON, lose
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


class Office:
    """An app whose members fail on command, and that writes down what its batches tell."""

    def __init__(self, url: str) -> None:
        self.app = App(url, lease=5)
        self.ran: list[int] = []
        self.bad: set[int] = set()
        self.told: list[tuple[str, Any]] = []
        self.deaths: list[Death] = []

        @self.app.task(name="work", retry=1)
        async def work(n: int) -> None:
            self.ran.append(n)
            if n in self.bad:
                raise ValueError(f"number {n}")

        @self.app.task(name="then")
        async def then(report: BatchReport) -> None:
            self.told.append(("then", report))

        @self.app.task(name="finished")
        async def finished(report: BatchReport) -> None:
            self.told.append(("finished", report))

        @self.app.task(name="first_failure")
        async def first_failure(death: Death) -> None:
            self.deaths.append(death)

        self.work, self.then, self.finished, self.first_failure = work, then, finished, first_failure

    def batch(self, id: str = "b", parent: str | None = None) -> Batch:
        return self.app.batch(
            id, then=self.then, finished=self.finished, first_failure=self.first_failure, parent=parent
        )

    def calls(self, *numbers: int) -> Any:
        return [self.work.call(n) for n in numbers]

    def names(self) -> list[str]:
        return [name for name, _ in self.told]


class Abandoned(Exception):
    """Its producer has died."""


@asynccontextmanager
async def abandoned() -> AsyncGenerator[None]:
    with suppress(Abandoned):
        yield


@pytest.fixture
def office(url: str) -> Office:
    return Office(url)


async def end(app: App, outcome: Outcome, queue: str = "default", lease: float = 0.05) -> Run:
    """What a worker does of the end of the queue's first job before it dies: everything but to settle it."""
    (delivery,) = await app.backend.broker.fetch([queue], 1, lease=lease, wait=5)
    run = Run(delivery)
    await Effects(app.backend).carry_out([(run, decide(outcome, delivery, run.policy, chance=0.0))])
    return run


async def test_a_batch_tells_of_its_end_when_all_its_members_have_returned(office: Office) -> None:
    async with office.app:
        async with office.app.working():
            async with office.batch() as batch:
                assert await batch.add(office.calls(1, 2)) == 2
                assert await batch.add(office.calls(3)) == 1
            assert await batch == BatchReport("b", 3, 0)
            status = await batch.status()
        await run_until_idle(office.app)
    assert status is not None
    assert (status.total, status.pending, status.failed, status.sealed) == (3, 0, 0, True)
    assert sorted(office.ran) == [1, 2, 3]
    assert sorted(office.names()) == ["finished", "then"]
    assert {report for _, report in office.told} == {BatchReport("b", 3, 0)}


async def test_nothing_is_told_before_the_batch_is_sealed(office: Office) -> None:
    async with office.app:
        async with office.batch() as batch:
            await batch.add(office.calls(1, 2))
            await run_until_idle(office.app)
            status = await batch.status()
            assert status is not None
            assert (status.pending, status.sealed, status.over) == (0, False, None)
            assert office.told == []
        await run_until_idle(office.app)
    assert sorted(office.names()) == ["finished", "then"]


async def test_an_empty_batch_ends_when_it_is_sealed(office: Office) -> None:
    async with office.app:
        async with office.batch() as batch:
            pass
        await run_until_idle(office.app)
        assert await batch.wait(SOON) == BatchReport("b", 0, 0)
    assert sorted(office.names()) == ["finished", "then"]


async def test_of_a_batch_with_failures_the_first_is_told_and_the_end(office: Office) -> None:
    office.bad = {2, 4}
    async with office.app:
        async with office.batch() as batch:
            await batch.add(office.calls(*range(6)))
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 6, 2, ends=Ends(failed=2))
        assert sorted(await batch.failures(), key=lambda ref: ref.id) == [
            JobRef("default", "b.0.2"),
            JobRef("default", "b.0.4"),
        ]
    assert office.names() == ["finished"]
    (death,) = office.deaths
    assert (death.end, death.id in ("b.0.2", "b.0.4")) == ("failed", True)


async def test_a_member_that_is_revived_and_returns_lets_its_batch_succeed(office: Office) -> None:
    office.bad = {2, 4}
    async with office.app:
        async with office.batch() as batch:
            await batch.add(office.calls(*range(6)))
        await run_until_idle(office.app)
        office.bad = {4}
        assert await office.app.admin.revive(await batch.failures()) == ["revived"] * 2
        await run_until_idle(office.app)
        assert office.names() == ["finished"]
        office.bad = set()
        assert await office.app.admin.revive(await batch.failures()) == ["revived"]
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 6, 0)
    assert office.names() == ["finished", "then"]
    assert len(office.deaths) == 1


async def test_members_that_return_where_another_has_failed_are_not_looked_at_one_by_one(office: Office) -> None:
    office.bad, asked = {0}, set[str]()
    async with office.app:
        store, get = office.app.store, office.app.store.get

        async def noted(key: str) -> Entry:
            asked.add(key)
            return await get(key)

        store.get = noted  # type: ignore[method-assign]
        async with office.batch() as batch:
            await batch.add(office.calls(*range(9)))
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 9, 1, ends=Ends(failed=1))
    assert {key for key in asked if key.startswith("end:default:b.0.")} == {"end:default:b.0.0"}


@pytest.mark.parametrize("how", ["quarantined", "cancelled", "expired", "discarded"])
async def test_a_member_that_does_not_return_has_failed_however_it_ended(office: Office, how: str) -> None:
    async with office.app:
        async with office.batch() as batch:
            work = office.work.options(expires_in=0.001) if how == "expired" else office.work
            await batch.add([work.call(1)])
        if how == "quarantined":
            await lose(office.app, 3)
        elif how == "cancelled":
            await office.app.cancel(JobRef("default", "b.0.0"))
        elif how == "discarded":
            await end(office.app, Raised(Discard("not today")))
        else:
            await anyio.sleep(0.01)
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 1, 1, ends=Ends(**{how: 1}))
    assert office.names() == ["finished"]
    assert [death.end for death in office.deaths] == [how]


async def test_a_batch_of_several_chunks_ends_once(office: Office) -> None:
    async def calls() -> AsyncIterator[Any]:
        for n in range(2 * CHUNK + 5):
            yield office.work.call(n)

    async with office.app:
        async with office.batch() as batch:
            assert await batch.add(calls()) == 2 * CHUNK + 5
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 2 * CHUNK + 5, 0)
        store = office.app.store
        left = [chunk_key("b", f"0/{number}") for number in range(3)] + [failed_key("b"), first_key("b")]
        assert [(await store.get(key)).members for key in left] == [frozenset()] * 5
        assert [(await store.get(key)).value for key in left] == [None] * 5
    assert len(office.ran) == 2 * CHUNK + 5
    assert sorted(office.names()) == ["finished", "then"]


async def test_a_producer_that_died_goes_on_without_doubles(office: Office) -> None:
    size = CHUNK + 50

    def calls(until: int) -> Iterator[Any]:
        for n in range(size):
            if n == until:
                raise KeyboardInterrupt
            yield office.work.call(n)

    async with office.app:
        for until in (CHUNK + 10, CHUNK + 49):
            with pytest.raises(KeyboardInterrupt):
                async with office.batch() as batch:
                    await batch.add(calls(until))
            await run_until_idle(office.app)
            assert len(office.ran) == CHUNK
            assert office.told == []
        async with office.batch() as batch:
            assert await batch.add(calls(-1)) == size
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", size, 0)
        # After the seal, too: the producer's own end may not have been settled.
        async with office.batch() as batch:
            assert await batch.add(calls(-1)) == size
        assert not (await run_until_idle(office.app)).events
    assert sorted(office.ran) == list(range(size))
    assert sorted(office.names()) == ["finished", "then"]


async def test_a_producer_that_died_within_a_chunk_goes_on_with_what_was_left(office: Office) -> None:
    async with office.app, office.batch() as batch:
        store = office.app.store
        # What it did before it died: two of three members are enqueued, one of them has ended.
        await batch.add(office.calls(0, 1, 2))
        (first, _, _) = await office.app.backend.broker.fetch(["default"], 3, lease=30, wait=0)
        run = Run(first)
        done = await Effects(office.app.backend).carry_out([(run, decide(Returned(), first, run.policy, chance=0))])
        await office.app.backend.broker.settle([done[0][1].settlement])
        # It dies, and begins again: neither what ended nor what runs is enqueued a second time.
        async with office.batch() as again:
            await again.add(office.calls(0, 1, 2))
        (stats,) = await office.app.admin.stats(["default"])
        assert (stats.ready, stats.leased) == (0, 2)
        assert len((await store.get(chunk_key("b", "0/0"))).members) == 2


async def test_a_member_enqueued_again_just_as_it_ended_does_not_run_again(office: Office) -> None:
    async with office.app, office.batch() as batch:
        await batch.add(office.calls(0, 1))
        await run_until_idle(office.app)
        (job,) = numbered("b", "0", 0, [office.work.call(0).job])
        await office.app.backend.broker.enqueue([replace(job, headers={**job.headers, RESUMED: "1"})])
        await run_until_idle(office.app, queues=["here", "away", "default"])
    assert sorted(office.ran) == [0, 1]


async def test_a_member_whose_server_was_away_has_not_failed(tap: Tap) -> None:
    office = Office("memory://")
    calls = [office.work.options(queue=queue).call(n) for n, queue in enumerate(("here", "away"))]
    async with office.app:
        async with office.batch() as batch:
            tap.away = {"away"}
            with pytest.raises(BrokerUnavailable):
                await batch.add(calls, key="all")
            tap.away = set()
            assert await batch.add(calls, key="all") == 2
        await run_until_idle(office.app, queues=["here", "away", "default"])
    assert sorted(office.ran) == [0, 1]
    assert {report for _, report in office.told} == {BatchReport("b", 2, 0)}


async def test_a_producer_that_goes_on_with_other_calls_is_refused(office: Office) -> None:
    async with office.app:
        # A producer that has not come to its end has sealed nothing.
        async with abandoned(), office.batch() as batch:
            await batch.add(office.calls(0, 1, 2))
            raise Abandoned
        for numbers in [(0, 1), (0, 1, 2, 3), ()]:
            with pytest.raises(ConfigError, match="other calls"):
                async with office.batch() as batch:
                    await batch.add(office.calls(*numbers))


async def test_streams_with_keys_may_come_in_any_order(office: Office) -> None:
    async with office.app:
        async with abandoned(), office.batch() as batch:
            await batch.add(office.calls(0, 1), key="monday")
            await batch.add(office.calls(2), key="tuesday")
            raise Abandoned
        async with office.batch() as batch:
            await batch.add(office.calls(2), key="tuesday")
            await batch.add(office.calls(3), key="wednesday")
            await batch.add(office.calls(0, 1), key="monday")
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 4, 0)
    assert sorted(office.ran) == [0, 1, 2, 3]


async def test_a_sealed_batch_takes_no_more_members(office: Office) -> None:
    async with office.app:
        async with office.batch() as batch:
            await batch.add(office.calls(0))
        with pytest.raises(BatchSealed):
            await batch.add(office.calls(1))
        async with office.batch() as again:
            await again.add(office.calls(0))
            with pytest.raises(BatchSealed):
                await again.add(office.calls(1))
        await run_until_idle(office.app)
    assert office.ran == [0]


async def test_the_last_two_members_may_end_together(office: Office) -> None:
    async with office.app:
        async with office.batch() as batch:
            await batch.add(office.calls(0, 1))
        deliveries = await office.app.backend.broker.fetch(["default"], 2, lease=30, wait=5)
        runs = [Run(delivery) for delivery in deliveries]
        decided = [(run, decide(Returned(), run.delivery, run.policy, chance=0.0)) for run in runs]
        # Two workers, each with one of them, at once; and then both once more, as if both had died.
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for one in decided:
                    group.start_soon(Effects(office.app.backend).carry_out, [one])
        await office.app.backend.broker.settle([decision.settlement for _, decision in decided])
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 2, 0)
    assert sorted(office.names()) == ["finished", "then"]


@pytest.mark.parametrize("outcome", [Returned(), Raised(ValueError("first"))])
async def test_a_member_whose_worker_died_before_it_was_settled_counts_as_it_ended_first(
    office: Office, outcome: Outcome
) -> None:
    returned = isinstance(outcome, Returned)
    async with office.app:
        async with office.batch() as batch:
            await batch.add([office.work.options(attempts=1).call(0)])
        (delivery,) = await office.app.backend.broker.fetch(["default"], 1, lease=0.05, wait=5)
        run = Run(delivery, office.work.definition.policy)
        await Effects(office.app.backend).carry_out([(run, decide(outcome, delivery, run.policy, chance=0.0))])
        office.bad = {0} if returned else set()
        await run_until_idle(office.app)
        assert await batch == (BatchReport("b", 1, 0) if returned else BatchReport("b", 1, 1, ends=Ends(failed=1)))
    assert office.ran == []
    assert sorted(office.names()) == (["finished", "then"] if returned else ["finished"])


async def test_a_run_that_outlived_its_lease_returns_just_as_the_next_one_fails_and_one_of_them_counts(
    office: Office,
) -> None:
    async with office.app:
        broker, store = office.app.backend.broker, office.app.store
        async with office.batch() as batch:
            await batch.add(office.calls(0))
        first, second = [
            Run(delivery, office.work.definition.policy)
            for lease in (0.05, 30)
            for delivery in await broker.fetch(["default"], 1, lease=lease, wait=5)
        ]
        first.held_since = asyncio.get_running_loop().time() - 1
        effects, swap, ended = Effects(office.app.backend, lease=0.05), store.swap, list[Decided]()

        async def end(run: Run, outcome: Outcome) -> None:
            decided = await effects.carry_out([(run, decide(outcome, run.delivery, run.policy, chance=0.0))])
            await broker.settle([decision.settlement for _, decision in decided])
            ended.extend(decided)

        async def interrupted(key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
            # The second has seen that the member is still there, and has not written down yet that it failed.
            store.swap = swap  # type: ignore[method-assign]
            await end(first, Returned())
            return await swap(key, old, new, ttl=ttl)

        store.swap = interrupted  # type: ignore[method-assign]
        await end(second, Raised(ValueError("second")))
        await run_until_idle(office.app)
        assert [decision.end for _, decision in ended] == ["returned", "returned"]
        assert await batch == BatchReport("b", 1, 0)
    assert sorted(office.names()) == ["finished", "then"]


async def test_a_member_adds_members_when_it_returns_and_once(office: Office) -> None:
    app = office.app

    @app.task(name="walk", retry=Retry.fixed(2, 0.0))
    async def walk(depth: int) -> None:
        own, again = current().batch, app.find_task("walk")
        assert own is not None
        if depth:
            await own.add([again.call(depth - 1), again.call(depth - 1)])
        if current().attempt == 1:
            raise ConnectionError("what it added is forgotten with it")

    async with app:
        async with office.batch() as batch:
            await batch.add([walk.call(3)])
        await run_until_idle(app, until="empty")
        assert await batch == BatchReport("b", 15, 0)
    assert sorted(office.names()) == ["finished", "then"]


async def test_what_a_member_added_is_enqueued_once_though_its_worker_died(office: Office) -> None:
    async with office.app:
        async with office.batch() as batch:
            await batch.add(office.calls(0))
        (delivery,) = await office.app.backend.broker.fetch(["default"], 1, lease=0.05, wait=5)
        run = Run(delivery, office.work.definition.policy)
        place = plan_of(delivery.job).place  # type: ignore[union-attr]
        adds = numbered_behind(place, [office.work.call(n).job for n in (1, 2)])  # type: ignore[arg-type]
        decision = decide(Returned(adds=adds), delivery, run.policy, chance=0.0)
        await Effects(office.app.backend).carry_out([(run, decision)])
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 3, 0)
    assert sorted(office.ran) == [1, 2]


async def test_a_chain_is_a_member_until_its_end(office: Office) -> None:
    @office.app.task
    async def first(n: int) -> int:
        return n + 100

    async with office.app:
        async with office.batch() as batch:
            await batch.add([first.call(1).then(office.work), first.call(2).then(office.work)])
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 2, 0)
    assert sorted(office.ran) == [101, 102]
    assert sorted(office.names()) == ["finished", "then"]


async def test_a_batch_in_a_batch_ends_before_it(office: Office) -> None:
    office.bad = {2}
    async with office.app:
        async with office.batch() as outer:
            async with office.batch("inner", parent="b") as inner:
                await inner.add(office.calls(1, 2))
            await outer.add(office.calls(3))
        await run_until_idle(office.app)
        assert await outer == BatchReport("b", 2, 1, ends=Ends(failed=1))
        # Who is told is told by a job, and where a lease was lost meanwhile the later one runs first.
        assert {death.id for death in office.deaths} == {"inner.0.1", "inner"}
        office.bad = set()
        await office.app.admin.revive(await inner.failures())
        await run_until_idle(office.app)
    told = [(name, report.id) for name, report in office.told]
    assert sorted(told[:2]) == [("finished", "b"), ("finished", "inner")]
    assert sorted(told[2:]) == [("then", "b"), ("then", "inner")]


async def test_a_batch_cannot_be_in_itself(office: Office) -> None:
    async with office.app:
        async with office.batch("a"), office.batch("c", parent="a"):
            with pytest.raises(ConfigError, match="in itself"):
                async with office.batch("a", parent="c"):
                    pass
        with pytest.raises(ConfigError, match="in itself"):
            async with office.batch("x", parent="x"):
                pass
        with pytest.raises(ConfigError, match="no batch"):
            async with office.batch("x", parent="y"):
                pass
        await run_until_idle(office.app)
        with pytest.raises(BatchSealed):
            async with office.batch("x", parent="a"):
                pass


async def test_a_cancelled_batch_finishes_and_never_succeeds(office: Office) -> None:
    @office.app.task
    async def first() -> int:
        return 1

    async with office.app:
        async with office.batch() as batch:
            await batch.add([*office.calls(0), office.work.options(delay=3600).call(1)])
            await batch.add([first.call().then(office.work)])
            async with office.batch("inner", parent="b") as inner:
                await inner.add(office.calls(2, 3))
                await run_until_idle(office.app, queues=["nothing"])
                # The chain has begun; its head has ended when the batch is cancelled.
                assert await batch.cancel()
                with pytest.raises(BatchSealed):
                    await inner.add(office.calls(4))
        await run_until_idle(office.app)
        assert (await batch).failed == 4
        assert not await batch.cancel()
        status = await batch.status()
        assert status is not None
        assert status.cancelled
    assert sorted(office.names()) == ["finished", "finished"]
    assert office.deaths == []
    assert office.ran == []


async def test_a_batch_that_ends_while_its_parent_is_being_cancelled_is_counted_as_it_ended(office: Office) -> None:
    async with office.app:
        async with office.batch() as outer:
            async with office.batch("inner", parent="b") as inner:
                await inner.add(office.calls(1))
            # The cancellation reaches the parent; before it reaches the child, the child's last member returns.
            (delivery,) = await office.app.backend.broker.fetch(["default"], 1, lease=30, wait=5)
            run = Run(delivery)
            decided = [(run, decide(Returned(), delivery, run.policy, chance=0.0))]
            async with anyio.create_task_group() as group:
                group.start_soon(outer.cancel)
                group.start_soon(Effects(office.app.backend).carry_out, decided)
            await office.app.backend.broker.settle([decided[0][1].settlement])
        await run_until_idle(office.app)
        failed = (await outer).failed
    # Whichever came first, both tell the same of it.
    succeeded = ("then", BatchReport("inner", 1, 0)) in office.told
    assert failed == (0 if succeeded else 1)
    assert office.names().count("finished") == 2
    assert "b" not in [report.id for name, report in office.told if name == "then"]


async def test_a_chain_in_a_cancelled_batch_goes_no_further(office: Office) -> None:
    @office.app.task
    async def first() -> int:
        return 1

    async with office.app:
        async with office.batch() as batch:
            await batch.add([first.call().then(office.work)])
        (delivery,) = await office.app.backend.broker.fetch(["default"], 1, lease=30, wait=5)
        run = Run(delivery)
        assert await batch.cancel()
        decided = [(run, decide(Returned(b"1"), delivery, run.policy, chance=0.0))]
        await Effects(office.app.backend).carry_out(decided)
        await office.app.backend.broker.settle([decided[0][1].settlement])
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 1, 1, ends=Ends(cancelled=1))
    assert office.ran == []
    assert office.names() == ["finished"]


async def test_a_callback_that_failed_for_good_runs_again_when_it_is_revived(office: Office) -> None:
    runs: list[str] = []

    @office.app.task(retry=1)
    async def fragile(report: BatchReport) -> None:
        runs.append(report.id)
        if len(runs) == 1:
            raise ValueError

    async with office.app:
        async with office.app.batch("b", then=fragile):
            pass
        await run_until_idle(office.app)
        assert await office.app.admin.revive([JobRef("default", "b.succeeded")]) == ["revived"]
        await run_until_idle(office.app)
    assert runs == ["b", "b"]


async def test_callbacks_may_be_calls_and_chains(office: Office) -> None:
    async with office.app:
        async with office.app.batch(
            "b", then=office.work.call(1), finished=office.work.call(2).then(office.work.call(3))
        ):
            pass
        await run_until_idle(office.app)
    assert sorted(office.ran) == [1, 2, 3]


async def test_a_member_that_was_refused_has_failed_and_is_told_of(office: Office) -> None:
    async with office.app:
        await office.work.options(unique="only", delay=3600).defer(0)
        held, refused = office.work.options(unique="only"), office.work.options(unique="only", on_conflict="raise")
        async with office.batch() as batch:
            with pytest.raises(PartlyEnqueued, match="1 of 3") as caught:
                await batch.add([*office.calls(1), refused.call(2), held.call(3)])
            assert list(caught.value.errors) == [1]
        await run_until_idle(office.app)
        assert await batch == BatchReport("b", 3, 1, ends=Ends(failed=1))
    assert office.ran == [1]


async def test_what_cannot_be_a_member_is_refused(office: Office) -> None:
    @office.app.task
    async def number() -> int:
        return 1

    async with office.app:
        async with office.batch() as batch:
            with pytest.raises(ConfigError, match="batch in a batch"):
                await batch.add([gather(number.call()).then(office.work.call(1))])
            with pytest.raises(ConfigError, match="batch in a batch"):
                await batch.add([cast("Any", gather(number.call()))])
            with pytest.raises(ConfigError, match="tx="):
                await batch.add([replace(number.call(), transaction=object())])
            with pytest.raises(ConfigError, match="transaction=True"):
                await batch.add([replace(number.call(), commits=True)])
            with pytest.raises(ConfigError, match="key"):
                await batch.add([], key="1")
            for taken in ("finished", "progress-1000"):
                with pytest.raises(ConfigError, match="callback"):
                    await batch.add([], key=taken)
        for name in ("", "a b", "x" * 101):
            with pytest.raises(ConfigError, match="batch id"):
                office.batch(name)
        with pytest.raises(ConfigError, match="callback"):
            office.app.batch("b", then=gather(number.call()).then(office.work.call(1)))


async def test_a_job_outside_of_batches_has_none(office: Office) -> None:
    found: list[object] = []

    @office.app.task
    async def look() -> None:
        found.append(current().batch)

    async with office.app:
        await look.defer()
        await run_until_idle(office.app)
    assert found == [None]


async def test_waiting_for_a_batch_has_its_time(office: Office) -> None:
    async with office.app:
        async with office.batch() as batch:
            await batch.add(office.calls(1))
        with pytest.raises(ResultNotReady):
            await batch.wait(0)
        assert await office.app.batch("unknown").status() is None
        assert not await office.app.batch("unknown").cancel()


async def test_what_the_members_returned_is_collected_on_request(url: str) -> None:
    app = App(url)

    @app.task(name="halve", retry=1)
    async def halve(n: int) -> int:
        if n % 2:
            raise ValueError(n)
        batch = current().batch
        if n == 2 and batch is not None:
            await batch.add([halve.call(100)])
        return n // 2

    async with app:
        async with app.batch("b") as batch:
            await batch.add(halve.call(n) for n in range(9))
            await batch.add([halve.call(14), halve.call(12)])
            await batch.add([halve.options(delay=3600).call(20)], key="late")
        await run_until_idle(app)
        results = app.batch("b").results(halve)
        with pytest.raises(ResultNotReady, match=r"b\.late\.0 has not ended"):
            await anext(results)
        late = halve.handle("b.late.0")
        assert await late.cancel()
        await run_until_idle(app)
        assert [result async for result in app.batch("b").results(halve)] == [0, 1, 2, 3, 4, 50, 7, 6]


async def test_results_of_a_task_that_keeps_none_are_refused(office: Office) -> None:
    async with office.app:
        async with office.batch() as batch:
            await batch.add(office.calls(1))
        await run_until_idle(office.app)
        with pytest.raises(ResultNotKept, match=r"@task\(keep="):
            await anext(batch.results(office.work))


def test_members_are_named_in_the_order_in_which_they_were_added() -> None:
    chunks = {"0/10": 1, "0/9": 2, "1/0": 1, "0.10/0": 1, "0.9/0": 1, "late/0": 1, "@inner": 1}

    assert list(names_of(chunks)) == ["late.0", "0.9000", "0.9001", "0.10000", "0.9.0", "0.10.0", "1.0"]
