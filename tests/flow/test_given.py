"""Jobs that end with what somebody else gives: steps that are skipped, and those that wait for somebody outside."""

import anyio
import pytest

from taskq import App, BatchReport, Retry, current
from taskq.errors import Conflict, JobCancelled
from taskq.flow.given import given
from taskq.job import JobRef, Nack
from taskq.testing import run_until_idle
from tests.worker.moves import SOON

pytestmark = pytest.mark.anyio


class Office:
    """A step that fails, one that waits for an answer, and one that goes on with it."""

    def __init__(self, url: str) -> None:
        self.app = App(url, lease=5)
        self.ran: list[str] = []
        self.reports: list[BatchReport] = []

        @self.app.task(name="price", retry=1)
        async def price(item: str) -> int:
            self.ran.append(item)
            raise ValueError(f"nobody knows what {item} costs")

        @self.app.task(name="approve", retry=Retry.fixed(3, 0.0))
        async def approve(item: str, patience: float = 3600) -> bool:
            self.ran.append(item)
            try:
                await current().outside(patience)
            except TimeoutError:
                return False

        @self.app.task(name="order")
        async def order(answer: bool | int) -> str:
            return f"ordered for {answer}"

        @self.app.task(name="report")
        async def report(batch: BatchReport) -> None:
            self.reports.append(batch)

        self.price, self.approve, self.order, self.report = price, approve, order, report


@pytest.fixture
def office(url: str) -> Office:
    return Office(url)


@pytest.fixture
def in_memory() -> Office:
    return Office("memory://")


async def test_a_step_that_failed_is_skipped_with_a_value_and_its_chain_goes_on(office: Office) -> None:
    async with office.app:
        chain = await office.app.defer(office.price.call("tea").then(office.order))
        async with office.app.batch("b", then=office.report) as batch:
            await batch.add([office.price.call("milk")])
        await run_until_idle(office.app)
        assert office.reports == []
        assert await chain.jobs[0].complete(7)
        assert await office.price.handle("b.0.0").complete(8)
        await run_until_idle(office.app)
        assert await chain.result(SOON) == "ordered for 7"
        assert await chain.jobs[0].result(SOON) == 7
        assert [result async for result in batch.results(office.price)] == [8]
        assert [await given(office.app.store, ref) for ref in (chain.jobs[0].ref, JobRef("default", "b.0.0"))] == [
            None
        ] * 2
        assert not await chain.jobs[0].complete(9)
    assert office.reports == [BatchReport("b", 1, 0)]


async def test_a_step_waits_for_somebody_outside_and_holds_nothing(office: Office) -> None:
    async with office.app:
        chain = await office.app.defer(office.approve.call("tea").then(office.order))
        await run_until_idle(office.app)
        assert await chain.jobs[0].status() == "later"
        assert await chain.jobs[0].complete(value=True)
        await run_until_idle(office.app)
        assert await chain.result(SOON) == "ordered for True"
    assert office.ran == ["tea"]


async def test_who_waits_for_nobody_is_told_when_its_time_is_over(in_memory: Office) -> None:
    async with in_memory.app:
        job = await in_memory.approve.defer("tea", patience=0.05)
        await run_until_idle(in_memory.app, until="empty")
        assert await job.result(SOON) is False
    assert in_memory.ran == ["tea", "tea"]


async def test_a_running_job_ends_with_what_it_is_given(in_memory: Office) -> None:
    begun = anyio.Event()

    @in_memory.app.task
    async def ponder() -> str:
        begun.set()
        await anyio.sleep_forever()
        return "never"

    async with in_memory.app, in_memory.app.working():
        job = await ponder.defer()
        with anyio.fail_after(SOON):
            await begun.wait()
        assert await job.complete("at once")
        assert await job.result(SOON) == "at once"
        assert await given(in_memory.app.store, job.ref) is None


async def test_a_job_that_is_cancelled_and_given_nothing_is_cancelled(in_memory: Office) -> None:
    async with in_memory.app:
        job = await in_memory.approve.defer("tea")
        assert await job.cancel()
        await run_until_idle(in_memory.app)
        with pytest.raises(JobCancelled):
            await job.result(SOON)


async def test_a_job_put_off_by_a_run_that_has_not_heard_is_brought_back(
    in_memory: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_memory.app:
        job = await in_memory.approve.defer("tea")
        broker, admin = in_memory.app.backend.broker, in_memory.app.admin
        (delivery,) = await broker.fetch(["default"], 1, lease=30, wait=5)
        asked = 0

        async def cancel(ref: JobRef) -> bool:
            nonlocal asked
            (found,) = await admin.cancel([ref])
            asked += 1
            if asked == 1:
                await broker.settle([Nack(delivery.receipt, 3600, counted=False)])
            return found

        monkeypatch.setattr(in_memory.app, "cancel", cancel)
        assert await job.complete(value=True)
        assert asked == 2
        await run_until_idle(in_memory.app)
        assert await job.result(SOON) is True
    assert in_memory.ran == []


async def test_what_was_given_counts_though_the_worker_died_that_had_found_it(in_memory: Office) -> None:
    async with in_memory.app:
        job = await in_memory.approve.options(delay=3600).defer("tea")
        assert await job.complete(value=True)
        (delivery,) = await in_memory.app.backend.broker.fetch(["default"], 1, lease=0.01, wait=5)
        assert delivery.cancelled
        await run_until_idle(in_memory.app)
        assert await job.result(SOON) is True
    assert in_memory.ran == []


async def test_what_cannot_be_completed_is_told(in_memory: Office) -> None:
    async with in_memory.app:
        assert not await in_memory.price.handle("unknown").complete(1)
        price = in_memory.price.options(unique="only")
        job = await price.defer("tea")
        await run_until_idle(in_memory.app)
        await price.options(delay=3600).defer("milk")
        with pytest.raises(Conflict, match="unique key"):
            await job.complete(1)
        assert await given(in_memory.app.store, job.ref) is None
