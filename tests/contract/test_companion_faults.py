"""What becomes of jobs when one half of a pair fails in the middle of a call."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from math import inf

import anyio
import pytest
from msgspec.structs import replace

from taskq.broker import Backend, Broker, Traits
from taskq.companion import pair
from taskq.errors import BrokerUnavailable
from taskq.events import JobRepeated
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, JobRef, Lease, Settlement
from taskq.memory import connect
from taskq.store import Entry, Store
from taskq.testing.clock import VirtualClock
from taskq.testing.deployment import LONG, SHORT, a_job, ack, add, names, nothing, take, take_one

pytestmark = pytest.mark.anyio


class Unreliable:
    """A carrier that is out of reach when it is told to be."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.unreachable: set[str] = set()

    @property
    def traits(self) -> Traits:
        return self.broker.traits

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        self._reach("enqueue")
        return await self.broker.enqueue(jobs)

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        return await self.broker.fetch(queues, limit, lease=lease, wait=wait)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self._reach("settle")
        return await self.broker.settle(settlements)

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await self.broker.extend(receipts, lease)

    def _reach(self, verb: str) -> None:
        if verb in self.unreachable:
            raise BrokerUnavailable("by the test")


class Fading:
    """A store that answers so many calls more, and then none."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.left = inf

    async def get(self, key: str) -> Entry:
        self._answer()
        return await self.store.get(key)

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        self._answer()
        return await self.store.swap(key, old, new, ttl=ttl)

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        self._answer()
        return await self.store.add(key, members, ttl=ttl, ceiling=ceiling)

    async def discard(self, key: str, members: Sequence[str]) -> int:
        self._answer()
        return await self.store.discard(key, members)

    def _answer(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise BrokerUnavailable("by the test")


class Pairs:
    """One carrier, and any number of companions after each other."""

    def __init__(self, stack: AsyncExitStack, carrier: Backend) -> None:
        self.stores: list[Fading] = []
        self._stack = stack
        self.carrier = Unreliable(carrier.broker)
        self._extender = carrier.extender
        self.repeated: list[JobRepeated] = []

    async def open(self) -> Backend:
        """With a companion that knows nothing yet."""
        return await self._stack.enter_async_context(pair(self._bare(), self._fading(), self.repeated.append))

    @asynccontextmanager
    async def _fading(self) -> AsyncGenerator[Backend]:
        async with connect("memory://") as keeper:
            assert keeper.store is not None
            self.stores.append(Fading(keeper.store))
            yield replace(keeper, store=self.stores[-1])

    @asynccontextmanager
    async def _bare(self) -> AsyncGenerator[Backend]:
        yield Backend(broker=self.carrier, extender=self._extender)


@pytest.fixture
def anyio_backend(taskq_clock: VirtualClock) -> tuple[str, dict[str, object]]:
    """What is told here takes seconds, of which no test waits for one."""
    return "asyncio", {"loop_factory": taskq_clock.make_loop}


@pytest.fixture
async def pairs() -> AsyncGenerator[Pairs]:
    async with AsyncExitStack() as stack:
        yield Pairs(stack, await stack.enter_async_context(connect("memory://")))


async def test_an_enqueue_that_did_not_reach_the_carrier_is_completed_by_its_repetition(pairs: Pairs) -> None:
    backend = await pairs.open()
    pairs.carrier.unreachable = {"enqueue"}
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await backend.broker.enqueue([a_job("q", unique="k")])
    pairs.carrier.unreachable = set()
    assert await nothing(backend.broker, "q")
    await backend.broker.enqueue([a_job("q", unique="k")])
    await ack(backend.broker, await take_one(backend.broker, "q"))
    assert await nothing(backend.broker, "q")


async def test_a_message_that_could_not_be_deleted_runs_nothing_again(pairs: Pairs) -> None:
    backend = await pairs.open()
    await add(backend.broker, a_job("q"))
    delivery = await take_one(backend.broker, "q", lease=SHORT)
    pairs.carrier.unreachable = {"settle"}
    assert list(await backend.broker.settle([Ack(delivery.receipt, b"done", LONG)])) == [True]
    pairs.carrier.unreachable = set()
    await add(backend.broker, a_job("q", "b", delay=2 * SHORT))
    assert names(await take(backend.broker, "q")) == ["b"]
    assert [event.id for event in pairs.repeated] == [delivery.job.id]
    assert backend.results is not None
    assert await backend.results.outcome(JobRef("q", delivery.job.id), wait=0) == b"done"


async def test_a_job_whose_worker_died_as_it_was_settled_is_not_counted_for_ever(pairs: Pairs) -> None:
    backend = await pairs.open()
    (store,) = pairs.stores
    assert backend.admin is not None
    await add(backend.broker, a_job("q"))
    delivery = await take_one(backend.broker, "q", lease=SHORT)
    store.left, pairs.carrier.unreachable = 2, {"settle"}
    assert list(await backend.broker.settle([Ack(delivery.receipt)])) == [True]
    store.left, pairs.carrier.unreachable = inf, set()
    await add(backend.broker, a_job("q", "b", delay=2 * SHORT))
    await ack(backend.broker, *await take(backend.broker, "q"))
    await anyio.sleep(SHORT)
    assert [(line.ready, line.leased) for line in await backend.admin.stats(["q"])] == [(0, 0)]


async def test_wherever_a_worker_dies_as_it_sets_a_job_aside_the_dead_letter_is_listed(pairs: Pairs) -> None:
    backend = await pairs.open()
    (store,) = pairs.stores
    assert backend.admin is not None
    for calls in range(30):
        await add(backend.broker, a_job("q", f"{calls}"))
        delivery = await take_one(backend.broker, "q", lease=SHORT)
        store.left = calls
        with suppress(BrokerUnavailable):
            await backend.broker.settle([DeadLetter(delivery.receipt, b"", LONG)])
        away, store.left = store.left < 0, inf
        # Its message comes again, or the job does.
        await anyio.sleep(2 * SHORT)
        for again in await backend.broker.fetch(["q"], 1, lease=SHORT, wait=0):
            await backend.broker.settle([DeadLetter(again.receipt, b"", LONG)])
        dead = await backend.admin.list_jobs("q", "dead", after=None, limit=100)
        assert {record.job.id for record in dead} == {f"q-{number}" for number in range(calls + 1)}
        if not away:
            return
    pytest.fail("a settlement takes fewer calls of the store")


async def test_two_messages_of_one_job_run_it_once(pairs: Pairs) -> None:
    backend = await pairs.open()
    pairs.carrier.unreachable = {"enqueue"}
    with pytest.raises(BrokerUnavailable):
        await backend.broker.enqueue([a_job("q")])
    pairs.carrier.unreachable = set()
    await backend.broker.enqueue([a_job("q")])
    (sent,) = await pairs.carrier.fetch(["q"], 1, lease=SHORT, wait=0)
    await pairs.carrier.enqueue([Job(id="copy", task="", body=sent.job.body, queue="q", headers=sent.job.headers)])
    first = await take_one(backend.broker, "q")
    assert await nothing(backend.broker, "q")
    await ack(backend.broker, first)
    assert await nothing(backend.broker, "q")


async def test_a_companion_that_lost_all_it_knew_loses_no_job_and_starts_none_as_new(pairs: Pairs) -> None:
    before = await pairs.open()
    await add(before.broker, a_job("q", body=b'{"v":1}', headers={"h": "1"}))
    after = await pairs.open()
    delivery = await take_one(after.broker, "q")
    assert (delivery.job.id, delivery.job.body, dict(delivery.job.headers)) == (a_job("q").id, b'{"v":1}', {"h": "1"})
    assert (delivery.attempt, delivery.losses) == (1, 1)


async def test_a_message_from_elsewhere_becomes_a_job_like_any_other(pairs: Pairs) -> None:
    backend = await pairs.open()
    await pairs.carrier.enqueue([a_job("q")])
    delivery = await take_one(backend.broker, "q")
    assert (delivery.attempt, delivery.losses) == (1, 0)
    assert backend.admin is not None
    (stats,) = await backend.admin.stats()
    assert (stats.queue, stats.leased) == ("q", 1)
    assert not (await backend.broker.enqueue([a_job("q")]))[0].added
    await ack(backend.broker, delivery)
    assert await backend.admin.lookup(JobRef("q", delivery.job.id)) is None


async def test_the_place_of_a_job_whose_message_could_not_be_deleted_goes_to_the_next(pairs: Pairs) -> None:
    backend = await pairs.open()
    await add(backend.broker, a_job("q", "a", group="g"), a_job("q", "b", group="g"))
    first = await take_one(backend.broker, "q")
    pairs.carrier.unreachable = {"settle"}
    await ack(backend.broker, first)
    assert names(await take(backend.broker, "q")) == ["b"]


async def test_a_place_that_nobody_handed_on_goes_to_the_next_when_the_message_of_its_holder_comes_again(
    pairs: Pairs,
) -> None:
    backend = await pairs.open()
    await add(backend.broker, a_job("q", "a", group="g"), a_job("q", "b", group="g"))
    first = await take_one(backend.broker, "q", lease=SHORT)
    pairs.carrier.unreachable = {"enqueue", "settle"}
    await ack(backend.broker, first)
    pairs.carrier.unreachable = set()
    assert names(await take(backend.broker, "q")) == ["b"]


async def test_a_message_of_a_group_from_elsewhere_waits_for_its_place(pairs: Pairs) -> None:
    backend = await pairs.open()
    await add(backend.broker, a_job("q", "a", group="g"))
    first = await take_one(backend.broker, "q")
    await pairs.carrier.enqueue([a_job("q", "b", group="g")])
    assert await nothing(backend.broker, "q")
    await ack(backend.broker, first)
    assert names(await take(backend.broker, "q")) == ["b"]


async def test_a_job_of_a_group_whose_row_was_lost_waits_for_its_place_again(pairs: Pairs) -> None:
    before = await pairs.open()
    await add(before.broker, a_job("q", "a", group="g"))
    after = await pairs.open()
    await add(after.broker, a_job("q", "b", group="g"))
    taken = await take_one(after.broker, "q")
    assert await nothing(after.broker, "q")
    await ack(after.broker, taken)
    other = await take_one(after.broker, "q")
    assert sorted(names([taken, other])) == ["a", "b"]
    assert {one.job.group for one in (taken, other)} == {"g"}


async def test_while_the_companion_is_away_jobs_are_taken_and_run_as_new_when_it_is_back(pairs: Pairs) -> None:
    backend = await pairs.open()
    (store,) = pairs.stores
    await add(backend.broker, a_job("q", "used again"))
    await ack(backend.broker, await take_one(backend.broker, "q"))
    store.left = 0
    jobs = [a_job("q", "plain"), a_job("q", "used again"), a_job("q", "one", group="g"), a_job("q", "two", group="g")]
    await add(backend.broker, *jobs, a_job("q", "later", delay=LONG))
    with pytest.raises(BrokerUnavailable):
        await backend.broker.fetch(["q"], 10, lease=LONG, wait=0)
    store.left = inf
    taken = await take(backend.broker, "q", 3)
    assert await nothing(backend.broker, "q")
    assert {(one.attempt, one.losses, one.cancelled) for one in taken} == {(1, 0, False)}
    (grouped,) = [one for one in taken if one.job.group == "g"]
    assert list(await backend.broker.settle([Ack(grouped.receipt, b"done", LONG)])) == [True]
    assert backend.results is not None
    assert await backend.results.outcome(JobRef("q", grouped.job.id), wait=0) == b"done"
    (next_one,) = await take(backend.broker, "q")
    assert sorted(names([*taken, next_one])) == ["one", "plain", "two", "used again"]


async def test_while_the_companion_is_away_nobody_can_tell_who_holds_a_unique_key(pairs: Pairs) -> None:
    backend = await pairs.open()
    pairs.stores[0].left = 0
    with pytest.raises(BrokerUnavailable):
        await backend.broker.enqueue([a_job("q", unique="k")])
    keyed, plain = await backend.broker.enqueue([a_job("q", unique="k"), a_job("q", "plain")])
    assert (type(keyed.error), plain.added) == (BrokerUnavailable, True)


@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("delay", [0.0, 5.0])
async def test_wherever_the_companion_goes_away_in_an_enqueue_the_job_runs_once(
    pairs: Pairs, group: str | None, delay: float
) -> None:
    backend = await pairs.open()
    (store,) = pairs.stores
    for calls in range(30):
        store.left = calls
        await add(backend.broker, a_job("q", f"{calls}", group=group, delay=delay))
        away, store.left = store.left < 0, inf
        delivery = await take_one(backend.broker, "q")
        assert (names([delivery]), delivery.attempt, delivery.losses) == ([f"{calls}"], 1, 0)
        await ack(backend.broker, delivery)
        assert await nothing(backend.broker, "q")
        if not away:
            return
        # What is to lapse at once does so when time passes, which it does not by itself.
        await anyio.sleep(SHORT)
    pytest.fail("an enqueue takes fewer calls of the store")
