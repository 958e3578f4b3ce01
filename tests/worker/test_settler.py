"""The settler: every end reaches the broker, in as few calls as load allows, and a lost one never."""

import logging
import random

import anyio
import pytest

from taskq import App, BatchReport, Death, Retry
from taskq.events import JobAgain, JobFinished, LeaseLost, SettlementRefused
from taskq.testing import VirtualClock, run_until_idle
from tests.worker.moves import SOON, heard, steal, wait_until
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


async def test_ends_that_gather_go_in_one_call(tap: Tap) -> None:
    app = App("memory://", slots=100)
    gate = anyio.Event()
    waiting = 0

    @app.task
    async def together() -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 100:
            gate.set()
        await gate.wait()

    async with app:
        await app.defer_many(together.call() for _ in range(100))
        await run_until_idle(app)
    assert sum(tap.sizes("settle")) == 100
    assert len(tap.sizes("settle")) <= 5


async def test_members_wait_for_no_callback_of_another_batch(tap: Tap) -> None:
    app = App("memory://", slots=10)
    gate, told = anyio.Event(), list[str]()

    @app.task
    async def member(waits: bool) -> None:
        if waits:
            await gate.wait()

    @app.task
    async def tell(report: BatchReport) -> None:
        told.append(report.id)

    async with app:
        async with app.batch("others") as batch:
            await batch.add(member.call(number == 0) for number in range(10))
        async with app.batch("last", then=tell) as batch:
            await batch.add([member.call(False)])
        tap.open = anyio.Event()
        async with app.working():
            # The callback cannot be enqueued yet: its batch's last member is held, and of the others who has not ended.
            await wait_until(lambda: tap.waiting == 1 and len(tap.held) == 2)
            assert told == []
            tap.open.set()
            gate.set()
            await wait_until(lambda: told == ["last"] and not tap.held)


async def test_a_settlement_the_broker_refuses_takes_no_other_with_it(
    tap: Tap, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("memory://", lease=30)
    runs: list[int] = []

    @app.task
    async def note(n: int) -> None:
        runs.append(n)

    async with app, app.working():
        tap.rejects_settlements = True
        with caplog.at_level(logging.ERROR):
            await note.defer(1)
            await note.defer(2)
            await clock.advance(1)
        assert len([record for record in caplog.records if "could not be settled" in record.message]) == 2
        tap.rejects_settlements = False
        # Their leases end, and they come back: nothing was lost.
        await clock.advance(60)
        assert sorted(runs) == [1, 1, 2, 2]
        assert tap.sizes("settle")


async def test_a_settlement_that_comes_too_late_is_told_and_changes_nothing(clock: VirtualClock) -> None:
    app = App("memory://", lease=3000)
    refused, finished = heard(app, SettlementRefused), heard(app, JobFinished)
    gate = anyio.Event()

    @app.task
    async def wait() -> None:
        await gate.wait()

    async with app, app.working() as worker:
        job = await wait.defer()
        await clock.advance()
        stolen = await steal(app, worker)
        gate.set()
        await clock.advance()
        assert [event.id for event in refused] == [job.id]
        assert await job.status() == "leased"
        assert stolen.losses == 1
    assert len(finished) == 1


async def test_a_lease_that_ended_with_its_settlement_was_not_lost(tap: Tap, clock: VirtualClock) -> None:
    app = App("memory://", lease=30)
    lost, refused = heard(app, LeaseLost), heard(app, SettlementRefused)

    @app.task(keep=60)
    async def short() -> str:
        return "done"

    async with app, app.working():
        tap.answering = anyio.Event()
        job = await short.defer()
        await clock.advance(15)
        assert tap.sizes("extend")
        tap.answering.set()
        await clock.advance(15)
        assert await job.result() == "done"
    assert not lost
    assert not refused


async def test_nor_was_that_of_a_member_which_is_settled_as_it_leaves(tap: Tap, clock: VirtualClock) -> None:
    app = App("memory://", lease=30)
    lost, refused = heard(app, LeaseLost), heard(app, SettlementRefused)

    @app.task
    async def one_after_another(n: int) -> None:
        await anyio.sleep(n / 10)

    async with app:
        async with app.batch("b") as batch:
            await batch.add(one_after_another.call(n) for n in range(10))
        async with app.working():
            tap.answering = anyio.Event()
            await clock.advance(15)
            # The first was looked at, and is settled by itself; the second has left with its settlement.
            assert tap.sizes("settle") == [1, 1]
            assert tap.sizes("extend")
            tap.answering.set()
            await clock.advance(15)
            assert sum(tap.sizes("settle")) == 10
    assert not lost
    assert not refused


async def test_every_end_is_told_once(clock: VirtualClock) -> None:
    app = App("memory://")
    finished, again = heard(app, JobFinished), heard(app, JobAgain)

    @app.task(retry=Retry.fixed(3, 60))
    async def fail() -> None:
        await anyio.sleep(2)
        raise ValueError("no")

    async with app:
        job = await fail.defer()
        await run_until_idle(app, until="empty")
    assert [(event.attempt, event.after, event.counted, event.reason) for event in again] == [
        (1, 60, True, "ValueError: no"),
        (2, 60, True, "ValueError: no"),
    ]
    (end,) = finished
    assert (end.id, end.task, end.queue, end.attempt, end.end) == (job.id, fail.name, "default", 3, "failed")
    assert end.run == pytest.approx(2)
    assert isinstance(end.error, ValueError)
    assert clock.time() == pytest.approx(126)


@pytest.mark.parametrize("seed", range(5))
async def test_ends_of_any_kind_settle_side_by_side(seed: int, url: str) -> None:
    app = App(url, slots=20)
    dice = random.Random(seed)
    kinds = [dice.choice(["return", "raise"]) for _ in range(60)]

    @app.task(retry=Retry.never())
    async def end(kind: str) -> str:
        await anyio.sleep(dice.random() / 100)
        if kind == "raise":
            raise ValueError(kind)
        return kind

    async with app:
        jobs = [await end.defer(kind) for kind in kinds]
        worked = await run_until_idle(app)
        assert len(worked.finished) == 60
        outcomes = [(await job.outcome(1)).end for job in jobs]
    assert outcomes == ["returned" if kind == "return" else "failed" for kind in kinds]


async def test_a_node_that_is_away_holds_up_the_ends_of_its_own_queues_only(tap: Tap) -> None:
    app = App("memory://", slots=2)
    refused = heard(app, SettlementRefused)
    ran: list[int] = []

    @app.task(queue="away")
    async def there() -> None: ...

    @app.task(queue="here")
    async def here(n: int) -> None:
        ran.append(n)

    async with app:
        await there.defer()
        tap.away = {"away"}
        async with app.working():
            with anyio.fail_after(SOON):
                await app.defer_many(map(here.call, range(10)))
                await wait_until(lambda: len(ran) == 10 and set(tap.held.values()) == {"away"})
                tap.away.clear()
                await wait_until(lambda: not tap.held)
    assert not refused


def app_that_tells() -> App:
    app = App("memory://", on_dead="bury")

    @app.task(name="bury")
    async def bury(death: Death) -> None: ...

    @app.task(name="fail", retry=1)
    async def fail() -> None:
        raise ValueError

    @app.task(name="plain")
    async def plain() -> None: ...

    return app


async def test_an_end_that_nothing_follows_from_waits_for_no_other_ends_effects(tap: Tap) -> None:
    app = app_that_tells()
    refused = heard(app, SettlementRefused)
    async with app:
        await app.find_task("fail").defer()
        plain = await app.find_task("plain").defer()
        tap.open, tap.arrived = anyio.Event(), anyio.Event()
        async with app.working():
            await tap.arrived.wait()
            await wait_until(lambda: tap.sizes("settle") == [1])
            assert await plain.status() == "gone"
            tap.open.set()
            # The dead letter, and the job that is told of it.
            await wait_until(lambda: sum(tap.sizes("settle")) == 3)
    assert refused == []


async def test_effects_are_carried_out_while_earlier_ends_are_settled(tap: Tap) -> None:
    app = app_that_tells()
    refused = heard(app, SettlementRefused)
    async with app, app.working():
        tap.answering = anyio.Event()
        await app.find_task("plain").defer()
        await wait_until(lambda: tap.sizes("settle") == [1])
        dead = await app.find_task("fail").defer()
        tap.arrived = anyio.Event()
        await tap.arrived.wait()
        # What follows has been enqueued, and the dead letter waits for its turn to be settled.
        await wait_until(lambda: sum(tap.sizes("enqueue")) == 3)
        assert await dead.status() == "leased"
        tap.answering.set()
        await wait_until(lambda: sum(tap.sizes("settle")) == 3)
    assert refused == []
