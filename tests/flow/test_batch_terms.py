"""What else may be said of a batch: who is told on the way, which ends are no failures, how large it may grow."""

from collections.abc import Sequence
from datetime import timedelta
from math import inf
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from taskq import App, BatchReport, Death, Discard, current
from taskq.errors import BatchFull, BrokerUnavailable, ConfigError, JobFailed
from taskq.flow.members import Membership
from taskq.flow.record import Ends, batch_key, change, ended_key, failed_key, first_key, parts_key
from taskq.job import Enqueued, Job, JobRef
from taskq.outcome import Cancelled, Expired, Outcome, Poisonous, Raised, Returned, decide
from taskq.testing import VirtualClock, run_until_idle
from taskq.worker.effects import Effects
from taskq.worker.run import Run

pytestmark = pytest.mark.anyio


class Desk:
    """An app that writes down what its batches tell."""

    def __init__(self, url: str) -> None:
        self.app = App(url, lease=5)
        self.told: list[tuple[str, BatchReport]] = []
        self.deaths: list[Death] = []

        @self.app.task(name="work", retry=1)
        async def work(how: str = "") -> None:
            if how == "discard":
                raise Discard("not today")
            if how:
                raise ValueError(how)

        @self.app.task(name="report", queue="told")
        async def report(batch: BatchReport) -> None:
            self.told.append((current().id.removeprefix("b."), batch))

        @self.app.task(name="bury", queue="told")
        async def bury(death: Death) -> None:
            self.deaths.append(death)

        @self.app.task(name="spawn", retry=1)
        async def spawn(many: int, again: bool = False) -> None:
            own = current().batch
            assert own is not None
            await own.add(self.spawn.call(many, again) if again else self.work.call() for _ in range(many))

        self.work, self.report, self.bury, self.spawn = work, report, bury, spawn

    async def finish(self, many: int) -> None:
        """As many members return."""
        broker = self.app.backend.broker
        for _ in range(many):
            (delivery,) = await broker.fetch(["default"], 1, lease=30, wait=5)
            run = Run(delivery)
            await Effects(self.app.backend).carry_out([(run, decide(Returned(), delivery, run.policy, chance=0.0))])
            await broker.settle([decide(Returned(), delivery, run.policy, chance=0.0).settlement])

    async def heard(self) -> list[tuple[str, BatchReport]]:
        """What has been told until now."""
        await run_until_idle(self.app, queues=["told"])
        return self.told


@pytest.fixture
def desk(url: str) -> Desk:
    return Desk(url)


@pytest.fixture
def at_desk() -> Desk:
    return Desk("memory://")


async def test_on_the_way_it_is_told_once_when_so_many_have_ended(desk: Desk) -> None:
    async with desk.app:
        progress = dict.fromkeys((0.5, 0.9, 3, 1000), desk.report)
        async with desk.app.batch("b", finished=desk.report, progress=progress) as batch:
            await batch.add(desk.work.call() for _ in range(10))
            await desk.finish(2)
            assert await desk.heard() == []
            await desk.finish(4)
            # Of how many six are is not known before the seal.
            assert await desk.heard() == [("progress-3", BatchReport("b", 10, 0, pending=7))]
        assert await desk.heard() == [*desk.told[:1], ("progress-0.5", BatchReport("b", 10, 0, pending=4))]
        await desk.finish(2)
        assert len(await desk.heard()) == 2
        await desk.finish(2)
        told = dict((await desk.heard())[2:])
    assert told == {
        "progress-0.9": BatchReport("b", 10, 0, pending=1),
        "finished": BatchReport("b", 10, 0),
    }


async def test_what_a_process_died_before_telling_is_told_by_the_next_look(at_desk: Desk) -> None:
    async with at_desk.app:
        broker, enqueue = at_desk.app.backend.broker, at_desk.app.backend.broker.enqueue
        async with at_desk.app.batch("b", progress={1: at_desk.report}) as batch:
            await batch.add([at_desk.work.call(), at_desk.work.call()])

        async def away(jobs: Sequence[Job]) -> Sequence[Enqueued]:
            raise BrokerUnavailable(f"for {len(jobs)} jobs")

        broker.enqueue = away  # type: ignore[method-assign]
        with pytest.raises(BrokerUnavailable):
            await at_desk.finish(1)
        broker.enqueue = enqueue  # type: ignore[method-assign]
        assert await at_desk.heard() == []
        await at_desk.finish(1)
        assert await at_desk.heard() == [("progress-1", BatchReport("b", 2, 0))]
        # It was enqueued, and the process died before it could write that down.
        await change(at_desk.app.store, "b", lambda record: replace(record, told=()))
        await Membership(at_desk.app.store, broker).progress.look("b")
        assert len(await at_desk.heard()) == 1


async def test_a_chunk_that_is_being_filled_has_not_ended(at_desk: Desk) -> None:
    async with at_desk.app, at_desk.app.batch("b", progress={2: at_desk.report}) as batch:
        await batch.add([at_desk.work.call()])
        store = at_desk.app.store
        await store.add(batch_key("b"), ["1/0"])
        await store.add(parts_key("b"), ["1/0=1000"])
        await at_desk.finish(1)
        assert await at_desk.heard() == []
        await store.discard(parts_key("b"), ["1/0=1000"])
        await store.discard(batch_key("b"), ["1/0"])


async def test_members_that_end_in_an_excused_way_have_not_failed(desk: Desk) -> None:
    async with desk.app:
        told: Any = {"then": desk.report, "first_failure": desk.bury}
        async with desk.app.batch("b", **told, excuses=["expired", "discarded"]) as batch:
            late = desk.work.options(expires_in=0.001)
            await batch.add(
                [desk.work.call(), late.call(), desk.work.call("discard"), late.call().then(desk.work.call())]
            )
        await run_until_idle(desk.app)
        assert await desk.heard() == [
            ("succeeded", BatchReport("b", 4, 0, excused=3, ends=Ends(expired=2, discarded=1)))
        ]
        assert await batch.failures() == []
        status = await batch.status()
    assert desk.told[0][1].succeeded == 1
    assert desk.deaths == []
    assert status is not None
    assert (status.succeeded, status.failed, status.excused, status.ends.expired) == (1, 0, 3, 2)


async def test_what_is_not_excused_has_failed(at_desk: Desk) -> None:
    app = at_desk.app
    async with app:
        async with app.batch("b", finished=at_desk.report, first_failure=at_desk.bury, excuses=["cancelled"]) as batch:
            await batch.add([at_desk.work.call("broken"), at_desk.work.call("discard")])
            await batch.add([at_desk.work.options(delay=timedelta(hours=1)).call()], key="later")
        assert await app.cancel(JobRef("default", "b.later.0"))
        await run_until_idle(app)
        report = BatchReport("b", 3, 2, excused=1, ends=Ends(failed=1, cancelled=1, discarded=1))
        assert await at_desk.heard() == [("finished", report)]
    assert [death.end for death in at_desk.deaths] == ["failed"]


@pytest.mark.parametrize(
    ("last", "report"),
    [
        (Returned(), BatchReport("b", 1, 0)),
        (Cancelled(), BatchReport("b", 1, 0, excused=1, ends=Ends(cancelled=1))),
        (Expired(), BatchReport("b", 1, 1, ends=Ends(expired=1))),
    ],
    ids=["returned", "excused", "expired"],
)
async def test_a_member_that_is_revived_counts_as_it_ended_last(desk: Desk, last: Outcome, report: BatchReport) -> None:
    app, policy, reports = desk.app, desk.work.definition.policy, list[BatchReport]()
    async with app:
        effects, broker = Effects(app.backend), app.backend.broker
        async with app.batch("b", excuses=["cancelled"]) as batch:
            await batch.add([desk.work.call()])
        for outcome in (Raised(ValueError()), Poisonous(), Raised(ValueError()), last):
            (delivery,) = await broker.fetch(["default"], 1, lease=30, wait=5)
            run = Run(delivery, policy)
            decided = [(run, decide(outcome, delivery, policy, chance=0.0))]
            for _ in range(2):
                await effects.carry_out(decided)
            (run.settled,) = await broker.settle([decided[0][1].settlement])
            await effects.forget(decided)
            reports.append(await batch)
            await app.admin.revive(await batch.failures())
    failed, quarantined = (BatchReport("b", 1, 1, ends=ends) for ends in (Ends(failed=1), Ends(quarantined=1)))
    assert reports == [failed, quarantined, failed, report]


async def test_a_cancelled_batch_tells_nothing_on_the_way(at_desk: Desk) -> None:
    async with at_desk.app:
        async with at_desk.app.batch("b", progress={1: at_desk.report, 0.1: at_desk.report}) as batch:
            await batch.add([at_desk.work.call()])
        assert await batch.cancel()
        await run_until_idle(at_desk.app)
        assert await at_desk.heard() == []


async def test_of_an_empty_batch_every_fraction_is_told(at_desk: Desk) -> None:
    async with at_desk.app:
        async with at_desk.app.batch("b", progress={1: at_desk.report, 0.5: at_desk.report}):
            pass
        assert await at_desk.heard() == [("progress-0.5", BatchReport("b", 0, 0))]


async def test_a_large_batch_is_told_of_without_a_look_for_each_member(at_desk: Desk) -> None:
    async with at_desk.app:
        async with at_desk.app.batch("b", progress={0.5: at_desk.report}) as batch:
            await batch.add(at_desk.work.call() for _ in range(2000))
        calls, get = [0], at_desk.app.store.get

        async def counted(key: str) -> Any:
            calls[0] += key == batch_key("b")
            return await get(key)

        at_desk.app.store.get = counted  # type: ignore[method-assign]
        await run_until_idle(at_desk.app, queues=["default"])
        ((_, report),) = await at_desk.heard()
    # How many end while somebody looks is a matter of speed.
    assert report.total - report.pending >= 1000
    assert calls[0] < 200


async def test_what_was_said_of_a_batch_is_shown_with_when_things_happened(desk: Desk) -> None:
    async with desk.app:
        async with desk.app.batch("b", description="the week's letters", tags=["mail", "weekly"]) as batch:
            before = await batch.status()
        after = await desk.app.batch("b").status()
    assert before is not None
    assert after is not None
    assert (after.description, after.tags) == ("the week's letters", ("mail", "weekly"))
    assert (before.sealed_at, before.over) == (None, None)
    assert after.sealed_at is not None
    assert after.over is not None
    assert 0 < before.opened == after.opened <= after.sealed_at <= after.over


async def test_batches_are_found_by_their_tags(desk: Desk) -> None:
    app = desk.app
    async with app:
        for id, tags in (("a", ["mail", "eu"]), ("b", "mail"), ("c", "eu"), ("d", ())):  # noqa: A001
            async with app.batch(id, tags=tags) as batch:
                await batch.add([desk.work.call()])
        assert [status.id async for status in app.batches(tag="mail")] == ["a", "b"]
        await run_until_idle(app)
        assert [(status.id, status.pending) async for status in app.batches(tag="eu")] == [("a", 0), ("c", 0)]
        assert [status async for status in app.batches(tag="none")] == []
        with pytest.raises(ConfigError, match="tags="):
            app.batches(tag="of two words")


def test_a_batch_is_found_by_its_tag_for_a_day_after_its_end(taskq_clock: VirtualClock, at_desk: Desk) -> None:
    app = at_desk.app

    async def found() -> list[str]:
        return [status.id async for status in app.batches(tag="mail")]

    async def main() -> None:
        async with app:
            async with app.batch("long", tags="mail") as batch:
                await batch.add([at_desk.work.options(delay=timedelta(days=30)).call()])
            for _ in range(2):
                # A producer that comes again opens nothing that has ended.
                async with app.batch("short", tags="mail"):
                    pass
            await taskq_clock.advance(hours=23)
            assert await found() == ["long", "short"]
            await taskq_clock.advance(hours=1)
            assert await found() == ["long"]
            assert await app.batch("short").status() is not None

    taskq_clock.run(main())


async def test_of_a_tag_only_so_many_batches_are_found_and_the_others_are_made_all_the_same(
    at_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskq.flow.record.MOST_LISTED", 1)
    async with at_desk.app as app:
        for id in "ab":  # noqa: A001
            async with app.batch(id, tags="mail"):
                pass
        assert [status.id async for status in app.batches(tag="mail")] == ["a"]
        assert (await app.batch("b")).total == 0


async def test_a_batch_that_adds_to_itself_without_end_stops_at_its_bounds(desk: Desk) -> None:
    async with desk.app:
        async with desk.app.batch("wide", most=20) as wide, desk.app.batch("deep", deepest=2) as deep:
            await wide.add([desk.spawn.call(4, again=True)])
            await deep.add([desk.spawn.call(1, again=True)])
        await run_until_idle(desk.app)
        report = await wide
        # It stops; those that were under way together have each seen that there was room.
        assert 17 <= report.total == 1 + 4 * report.succeeded
        assert await deep == BatchReport("deep", 3, 1, ends=Ends(failed=1))
        with pytest.raises(JobFailed, match="BatchFull: batch deep: it goes 2 levels deep"):
            await desk.spawn.handle("deep.0.0.0.0").result(0)


async def test_a_producer_adds_no_more_than_its_batch_takes(at_desk: Desk) -> None:
    async def produce(most: int) -> None:
        async with at_desk.app.batch("b", most=most) as batch:
            for _ in range(2):
                await batch.add([at_desk.work.call(), at_desk.work.call()])

    async with at_desk.app:
        with pytest.raises(BatchFull, match="takes 3 members"):
            await produce(3)
        await produce(4)
        await run_until_idle(at_desk.app)
        assert (await at_desk.app.batch("b")).total == 4


def test_what_is_known_of_a_batch_lapses_together_and_when_it_says(taskq_clock: VirtualClock, at_desk: Desk) -> None:
    app, late = at_desk.app, at_desk.work.options(delay=timedelta(days=80))

    async def main() -> None:
        async with app:
            async with app.batch("b", keep=timedelta(days=30)) as batch:
                await batch.add([at_desk.work.call(), at_desk.work.call("broken"), late.call("discard")])
            await run_until_idle(app)
            await taskq_clock.advance(days=80)
            await run_until_idle(app)
            await taskq_clock.advance(days=29)
            assert await batch == BatchReport("b", 3, 2, ends=Ends(failed=1, discarded=1))
            assert len(await batch.failures()) == 2
            await taskq_clock.advance(days=1)
            assert await batch.status() is None
            for key in (parts_key("b"), failed_key("b"), first_key("b"), ended_key("b", "discarded")):
                entry = await app.store.get(key)
                assert (entry.value, entry.members) == (None, frozenset())

    taskq_clock.run(main())


async def test_batches_in_batches_go_no_deeper_than_the_outermost_says(at_desk: Desk) -> None:
    app = at_desk.app
    async with app, app.batch("a", deepest=1), app.batch("b", parent="a"):
        with pytest.raises(BatchFull, match="batch a: it goes 1 levels deep"):
            async with app.batch("c", parent="b"):
                pass


async def test_batches_of_before_are_read_as_they_were(at_desk: Desk) -> None:
    async with at_desk.app:
        async with at_desk.app.batch("b", finished=at_desk.report) as batch:
            await batch.add([at_desk.work.call()])
            key, store = batch_key("b"), at_desk.app.store
            value = (await store.get(key)).value
            record = msgspec.json.decode(value or b"")
            before = {name: said for name, said in record.items() if name in ("opened", "plans")}
            assert await store.swap(key, value, msgspec.json.encode(before))
        await run_until_idle(at_desk.app)
        assert await at_desk.heard() == [("finished", BatchReport("b", 1, 0))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"progress": {1.0: "report"}}, "a fraction between 0 and 1"),
        ({"progress": {0: "report"}}, "number of members"),
        ({"progress": {True: "report"}}, "number of members"),
        ({"excuses": ["failed"]}, "expired, discarded, cancelled"),
        ({"excuses": "expired"}, "in a list"),
        ({"description": 7}, "up to 500"),
        ({"description": "x" * 501}, "up to 500"),
        ({"tags": "a b"}, "tags="),
        ({"most": 0}, "most=0"),
        ({"deepest": -1}, "deepest=-1"),
        ({"keep": timedelta(days=6)}, "at least seven days"),
        ({"keep": inf}, "at least seven days"),
        ({"keep": True}, "at least seven days"),
        ({"keep": "long"}, "at least seven days"),
        ({"linger": 7}, "no option 'linger'"),
    ],
)
def test_what_makes_no_sense_of_a_batch_is_refused(at_desk: Desk, options: Any, message: str) -> None:
    if "progress" in options:
        options = {"progress": dict.fromkeys(options["progress"], at_desk.report)}
    with pytest.raises(ConfigError, match=message):
        at_desk.app.batch("b", **options)
