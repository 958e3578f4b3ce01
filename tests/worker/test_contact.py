"""Contact: one event when the broker goes, one when it returns; in between nothing is lost and nothing loops hot."""

from typing import Literal

import anyio
import pytest

from taskq import App, BatchReport
from taskq.errors import BrokerUnavailable
from taskq.events import BrokerLost, BrokerRegained, Events, JobFinished
from taskq.testing import VirtualClock, run_until_idle
from taskq.worker.contact import Contact
from tests.worker.moves import heard
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


async def test_going_and_coming_are_told_once_each() -> None:
    events = Events()
    told: list[object] = []
    events.subscribe(BrokerLost, told.append)
    events.subscribe(BrokerRegained, told.append)
    contact = Contact(events)
    error = BrokerUnavailable("gone")
    contact.succeed()
    assert not contact.lost
    contact.fail(error)
    contact.fail(error)
    assert contact.lost
    contact.succeed()
    contact.succeed()
    assert not contact.lost
    assert [type(event) for event in told] == [BrokerLost, BrokerRegained]


async def test_waiting_grows_up_to_two_seconds(clock: VirtualClock) -> None:
    contact = Contact(Events())
    waited: list[float] = []
    for _ in range(12):
        contact.fail(BrokerUnavailable("gone"))
        began = clock.time()
        await contact.back_off()
        waited.append(clock.time() - began)
    assert waited[0] <= 0.1
    assert 1.0 <= waited[-1] <= 2.0
    contact.succeed()
    contact.fail(BrokerUnavailable("gone"))
    began = clock.time()
    await contact.back_off()
    assert clock.time() - began <= 0.1


@pytest.mark.parametrize("broken", ["before", "after"])
async def test_an_outage_at_any_point_loses_nothing(broken: str, clock: VirtualClock, tap: Tap) -> None:
    """The broker goes away ten times while jobs are fetched, run and settled; calls fail before or after they count."""
    app = App("memory://", slots=5, lease=30)
    lost, regained = heard(app, BrokerLost), heard(app, BrokerRegained)
    ended: set[str] = set()
    app.events.subscribe(JobFinished, lambda event: ended.add(event.id))

    @app.task(max_losses=100)
    async def step() -> None:
        await anyio.sleep(0.7)

    async with app:
        jobs = [await step.defer() for _ in range(500)]
        async with app.working():
            for _ in range(10):
                await clock.advance(5.1)
                tap.broken = "before" if broken == "before" else "after"
                await clock.advance(3.3)
                tap.broken = "no"
            await clock.advance(600)
            assert ended == {job.id for job in jobs}
            assert {await job.status() for job in jobs} == {"gone"}
    assert len(lost) == len(regained) == 10


@pytest.mark.parametrize("broken", ["before", "after"])
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "apart"])
async def test_members_of_a_batch_leave_it_and_are_settled_whatever_call_fails(
    apart: bool, broken: Literal["before", "after"], clock: VirtualClock, tap: Tap
) -> None:
    app = App("memory://", slots=5, lease=30)
    tap.leaves_apart = apart
    told: list[BatchReport] = []

    @app.task(max_losses=100)
    async def step(n: int) -> None:
        await anyio.sleep(0.7 + n % 3 / 10)

    @app.task(max_losses=100)
    async def tell(report: BatchReport) -> None:
        told.append(report)

    async with app:
        async with app.batch("b", then=tell) as batch:
            await batch.add(step.call(n) for n in range(200))
        async with app.working():
            for _ in range(5):
                await clock.advance(5.1)
                tap.broken = broken
                await clock.advance(3.3)
                tap.broken = "no"
            await clock.advance(600)
        assert told == [BatchReport("b", total=200, failed=0)]
        assert sum(queue.ready + queue.leased + queue.dead for queue in await app.admin.stats()) == 0


async def test_a_long_outage_is_told_once_and_loops_not_hot(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://")
    lost, regained = heard(app, BrokerLost), heard(app, BrokerRegained)

    @app.task
    async def answer() -> int:
        return 42

    async with app, app.working():
        job = await answer.defer()
        tap.broken = "before"
        before = tap.tried
        await clock.advance(600)
        assert tap.tried - before < 2 * 600 * 2
        tap.broken = "no"
        assert await job.result(60) == 42
    assert len(lost) == len(regained) == 1


async def test_an_outage_without_jobs_is_noticed_and_overcome(tap: Tap) -> None:
    app = App("memory://")
    lost, regained = heard(app, BrokerLost), heard(app, BrokerRegained)

    @app.task
    async def answer() -> int:
        return 42

    async with app:
        tap.broken = "before"
        async with app.working():
            with anyio.fail_after(20):
                while not lost:  # noqa: ASYNC110 - the worker's own try tells
                    await anyio.sleep(0.01)
                tap.broken = "no"
                job = await answer.defer()
                assert await job.result(20) == 42
    assert len(lost) == len(regained) == 1


async def test_a_deferrer_learns_that_the_broker_is_away(tap: Tap) -> None:
    app = App("memory://")

    @app.task
    async def nothing() -> None: ...

    async with app:
        tap.broken = "before"
        with pytest.raises(BrokerUnavailable) as caught:
            await nothing.defer()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        tap.broken = "after"
        with pytest.raises(BrokerUnavailable):
            await nothing.options(id="mine").defer()
        tap.broken = "no"
        # The call may be repeated with its id: the job was taken, and is not added again.
        assert not (await nothing.options(id="mine").defer()).added
        worked = await run_until_idle(app)
        assert [event.id for event in worked.finished] == ["mine"]
