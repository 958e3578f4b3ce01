"""A real broker with a tap in front: what passes is counted, and can be held up or cut off on command."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeVar

import anyio
from msgspec.structs import replace

from taskq.broker import Backend, Broker, Extender, Traits
from taskq.connect import connect
from taskq.errors import BrokerRejected, BrokerUnavailable, PartlySettled
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement
from taskq.store import Entry, Store

T = TypeVar("T")
Verb = Literal["enqueue", "fetch", "settle", "extend"]


class Tap:
    """Counts, and does harm when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Verb, int]] = []
        """Each call that reached the broker: its verb, and how many jobs, deliveries or receipts it carried."""
        self.tried = 0
        """Calls, also those that were cut off."""
        self.broken: Literal["no", "before", "after"] = "no"
        """Whether calls fail: before the broker knows of them, or after it has done what they ask."""
        self.rejects_settlements = False
        self.away: set[str] = set()
        """Queues that are not reached by a settle, an extend or a bulk, as on a node that is away; the others are."""
        self.open = anyio.Event()
        """Calls of enqueue wait for it."""
        self.open.set()
        self.arrived = anyio.Event()
        """Set when an enqueue comes."""
        self.pipelined = False
        """Whether the broker says that it is."""
        self.waiting = 0
        """Calls of enqueue that wait now."""
        self.answering = anyio.Event()
        """What was settled is answered when it is set."""
        self.answering.set()
        self.delivering = anyio.Event()
        """What was fetched is handed over when it is set."""
        self.fetch_takes = 0.0
        """Seconds, besides what the broker itself takes."""
        self.leaving_takes = 0.0
        """The same, until members have been discarded."""
        self.leaves_apart = False
        """Whether members leave by one call and are settled by another, as where jobs and Store are in two places."""
        self.delivering.set()
        self.swapped: list[str] = []
        """The keys of the store's swaps."""
        self.store_is_away = self.store_loses_answers = self.notes_are_faulty = False
        self.adding_loses_answers = False
        self.swapping = anyio.Event()
        """Swaps wait for it."""
        self.swapping.set()
        self.held: dict[str, str] = {}
        """Receipts and their queues."""
        self.most_held = 0

    def sizes(self, verb: Verb) -> list[int]:
        return [size for called, size in self.calls if called == verb]

    @asynccontextmanager
    async def connect(self, url: str) -> AsyncGenerator[Backend]:
        async with connect(url) as backend:

            @asynccontextmanager
            async def extender() -> AsyncGenerator[Extender]:
                async with backend.extender() as inner:
                    yield TappedExtender(self, inner)

            async def discard_and_settle(
                key: str, members: Sequence[str], settlements: Sequence[Settlement]
            ) -> Sequence[bool] | None:
                inner = backend.discard_and_settle
                assert inner is not None
                return await broker.settle_by(settlements, lambda there: inner(key, members, there))

            broker = TappedBroker(self, backend.broker)
            store = None if backend.store is None else TappedStore(self, backend.store)
            at_once = None if self.leaves_apart or backend.discard_and_settle is None else discard_and_settle
            yield replace(backend, broker=broker, extender=extender, store=store, discard_and_settle=at_once)

    def come(self) -> None:
        self.tried += 1
        if self.broken == "before":
            raise BrokerUnavailable("cut off") from ConnectionResetError("by the test")

    def go(self, verb: Verb, size: int) -> None:
        self.calls.append((verb, size))
        if self.broken == "after":
            raise BrokerUnavailable("the answer was lost") from ConnectionResetError("by the test")


class TappedBroker:
    def __init__(self, tap: Tap, broker: Broker) -> None:
        self._tap = tap
        self._broker = broker

    @property
    def traits(self) -> Traits:
        return replace(self._broker.traits, pipelined=self._tap.pipelined)

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        self._tap.arrived.set()
        self._tap.waiting += 1
        await self._tap.open.wait()
        self._tap.waiting -= 1
        self._tap.come()
        there = [job for job in jobs if job.queue not in self._tap.away]
        answers = iter(await self._broker.enqueue(there))
        self._tap.go("enqueue", len(there))
        gone = BrokerUnavailable("a node is away")
        if jobs and not there:
            raise gone
        return [Enqueued(job.id, False, gone) if job.queue in self._tap.away else next(answers) for job in jobs]

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        self._tap.come()
        deliveries = await self._broker.fetch(queues, limit, lease=lease, wait=wait)
        self._tap.go("fetch", len(deliveries))
        self._tap.held.update({delivery.receipt: delivery.job.queue for delivery in deliveries})
        self._tap.most_held = max(self._tap.most_held, len(self._tap.held))
        await self._tap.delivering.wait()
        if self._tap.fetch_takes:
            await anyio.sleep(self._tap.fetch_takes)
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        answers = await self.settle_by(settlements, self._broker.settle)
        assert answers is not None
        return answers

    async def settle_by(
        self,
        settlements: Sequence[Settlement],
        settle: Callable[[Sequence[Settlement]], Awaitable[Sequence[bool] | None]],
    ) -> Sequence[bool] | None:
        self._tap.come()
        if self._tap.rejects_settlements:
            raise BrokerRejected("no settlement is taken") from PermissionError("by the test")
        there = [each for each in settlements if self._tap.held.get(each.receipt) not in self._tap.away]
        answers = await settle(there)
        if answers is None:
            return None
        self._tap.go("settle", len(there))
        for settlement in there:
            self._tap.held.pop(settlement.receipt, None)
        await self._tap.answering.wait()
        if len(there) < len(settlements):
            said = dict(zip([each.receipt for each in there], answers, strict=True))
            raise PartlySettled("a node is away", [said.get(each.receipt) for each in settlements])
        return answers

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await TappedExtender(self._tap, self._broker).extend(receipts, lease)


class TappedStore:
    def __init__(self, tap: Tap, store: Store) -> None:
        self._tap = tap
        self._store = store

    def _come(self) -> None:
        if self._tap.store_is_away:
            raise BrokerUnavailable("cut off") from ConnectionResetError("by the test")

    async def get(self, key: str) -> Entry:
        self._come()
        return await self._store.get(key)

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        self._come()
        added = await self._store.add(key, members, ttl=ttl, ceiling=ceiling)
        if self._tap.adding_loses_answers:
            raise BrokerUnavailable("the answer was lost") from ConnectionResetError("by the test")
        return added

    async def discard(self, key: str, members: Sequence[str]) -> int:
        self._come()
        if self._tap.leaving_takes:
            await anyio.sleep(self._tap.leaving_takes)
        return await self._store.discard(key, members)

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        self._tap.swapped.append(key)
        await self._tap.swapping.wait()
        if self._tap.notes_are_faulty and key.startswith("notes:"):
            raise RuntimeError("the store does not keep its contract")
        self._come()
        swapped = await self._store.swap(key, old, new, ttl=ttl)
        if self._tap.store_loses_answers:
            raise BrokerUnavailable("the answer was lost") from ConnectionResetError("by the test")
        return swapped


class TappedExtender:
    def __init__(self, tap: Tap, extender: Extender) -> None:
        self._tap = tap
        self._extender = extender

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        self._tap.come()
        gone = {receipt for receipt in receipts if self._tap.held.get(receipt) in self._tap.away}
        if gone.issuperset(receipts):
            raise BrokerUnavailable("a node is away")
        answers = iter(await self._extender.extend([receipt for receipt in receipts if receipt not in gone], lease))
        self._tap.go("extend", len(receipts) - len(gone))
        return [Lease.UNKNOWN if receipt in gone else next(answers) for receipt in receipts]
