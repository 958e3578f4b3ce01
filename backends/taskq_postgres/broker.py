"""The four verbs, each one statement; and the outcomes."""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic

import anyio

from taskq.broker import Traits
from taskq.errors import BrokerError
from taskq.job import Ack, Delivery, Enqueued, Job, JobRef, Lease, Nack, Settlement
from taskq_postgres.lanes import Connection, Lanes
from taskq_postgres.marks import Marks
from taskq_postgres.rows import Receipt
from taskq_postgres.verbs import Fetched, Verbs
from taskq_postgres.watcher import LOOK, Watcher
from taskq_postgres.wishes import Wish

_CLOSING = 1.0
"""Seconds for taking back what was handed over: where that fails, leases end by themselves."""


class PostgresBroker:
    """A queue in a database, shared by every process that opens it."""

    def __init__(self, traits: Traits, verbs: Verbs, lanes: Lanes, watcher: Watcher) -> None:
        self._traits = traits
        self._verbs = verbs
        self._lanes = lanes
        self._watcher = watcher
        self._marks = Marks()
        self._returns: set[asyncio.Task[list[bool]]] = set()
        watcher.wishes.pass_on = self._give_back

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        # After a silence somebody may be waiting for just these; in a stream of jobs one commit is cheaper than two.
        ahead = self._watcher.silent
        if ahead:
            answers = await self._lanes.run(lambda connection: self._verbs.enqueue_ahead(connection, jobs))
            self._watcher.told()
            if self._watcher.ear.hears:
                # This process has been told, too, or handed the job.
                return answers
        else:
            answers = await self._lanes.run(lambda connection: self._verbs.enqueue(connection, jobs, tells=False))
        queues = {job.queue for job, answer in zip(jobs, answers, strict=True) if answer.error is None}
        self._watcher.wake(queues, others=not ahead)
        return answers

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> list[Delivery]:
        if limit <= 0 or not queues:
            return []
        with self._watcher.wishes.waiting(queues, limit) as wish:
            if wait <= 0:
                if self._returns:
                    # What was handed to a fetch that had ended is there for this one.
                    await asyncio.wait(self._returns)
                fetched = await self._fetch(queues, limit, lease, waits=False)
                return fetched.deliveries + wish.take(limit - len(fetched.deliveries))
            return await self._wait(wish, queues, limit, lease, wait)

    async def _wait(self, wish: Wish, queues: Sequence[str], limit: int, lease: float, wait: float) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        until, roused = loop.time() + wait, self._watcher.roused

        def over() -> bool:
            return loop.time() >= until or self._watcher.closed or self._watcher.roused != roused

        # The wish was there first, so that nothing is missed that is told between a look and the wait.
        while True:
            wish.look()
            fetched = await self._fetch(queues, limit, lease, waits=True)
            taken = fetched.deliveries + wish.take(limit - len(fetched.deliveries))
            if taken or over():
                return taken
            pause = LOOK if fetched.pause is None else min(LOOK, max(fetched.pause, 0.001))
            with anyio.move_on_after(min(until - loop.time(), pause)):
                await wish.told()
            if taken := wish.take(limit):
                return taken
            if over():
                return []

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        settled = await self._lanes.run(lambda connection: self._verbs.settle(connection, settlements, tells=False))
        return self._told(settlements, settled)

    async def discard_and_settle(
        self, key: str, members: Sequence[str], settlements: Sequence[Settlement]
    ) -> list[bool] | None:
        """As :class:`~taskq.broker.DiscardAndSettle`."""
        settled = await self._lanes.run(
            lambda connection: self._verbs.discard_and_settle(connection, key, members, settlements)
        )
        return None if settled is None else self._told(settlements, settled)

    def _told(self, settlements: Sequence[Settlement], settled: Sequence[Receipt | None]) -> list[bool]:
        """Tell those who wait for what was settled."""
        queues: set[str] = set()
        for settlement, receipt in zip(settlements, settled, strict=True):
            if receipt is None:
                continue
            # A place that has come free may be what a fetch waits for.
            if receipt.grouped or isinstance(settlement, Nack):
                queues.add(receipt.queue)
            if not isinstance(settlement, Nack):
                kept = not isinstance(settlement, Ack) or settlement.keep > 0
                self._watcher.ended((receipt.queue, receipt.id), settlement.outcome if kept else None)
        self._watcher.wake(queues)
        return [receipt is not None for receipt in settled]

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await self._lanes.run(lambda connection: self._verbs.extend(connection, receipts, lease))

    async def close(self) -> None:
        """End the fetches that wait; what was handed to nobody is given back, as far as the server can be reached."""
        self._watcher.ear.closed = True
        self._watcher.rouse()
        # These end in this turn, or with the call that is under way.
        await asyncio.sleep(0)
        await self._lanes.settled()
        with anyio.move_on_after(_CLOSING), suppress(BrokerError):
            served = self._watcher.ear.served()
            for queues in served:
                self._give_back((await self._fetch(queues, 0, LOOK, waits=False)).deliveries)
            if served:
                await self._lanes.run(self._watcher.ear.leave)
        if self._returns:
            await asyncio.wait(self._returns, timeout=_CLOSING)

    async def _fetch(self, queues: Sequence[str], limit: int, lease: float, *, waits: bool) -> Fetched:
        marks, begun = self._marks.given(), monotonic()

        def fetch(connection: Connection) -> Awaitable[Fetched]:
            ask = partial(self._verbs.fetch, connection, queues, limit, lease, marks)
            return self._watcher.ear.ask(queues, ask, waits=waits)

        fetched = await self._lanes.run(fetch, abandoned=lambda fetched: self._give_back(fetched.deliveries))
        self._marks.heard(marks, fetched.passed, fetched.marks, monotonic() - begun)
        return fetched

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Undo leases that never reached their caller: no end, no loss."""
        if deliveries and not self._watcher.closed:
            nacks = [Nack(delivery.receipt, 0.0, counted=False) for delivery in deliveries]
            task = asyncio.get_running_loop().create_task(self.settle(nacks))
            self._returns.add(task)
            task.add_done_callback(self._returned)

    def _returned(self, task: "asyncio.Task[list[bool]]") -> None:
        self._returns.discard(task)
        # A failure is nobody's: the leases will end by themselves.
        if not task.cancelled():
            task.exception()


class PostgresExtender:
    """Extends on a connection of its own, from the event loop that opened it."""

    def __init__(self, verbs: Verbs, lanes: Lanes) -> None:
        self._verbs = verbs
        self._lanes = lanes

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await self._lanes.run(lambda connection: self._verbs.extend(connection, receipts, lease))


class PostgresResults:
    """Outcomes, kept beside the jobs."""

    def __init__(self, verbs: Verbs, lanes: Lanes, watcher: Watcher) -> None:
        self._verbs = verbs
        self._lanes = lanes
        self._watcher = watcher

    async def outcome(self, ref: JobRef, *, wait: float) -> bytes | None:
        with self._watcher.awaiting((ref.queue, ref.id)) as ended:
            outcomes = self._verbs.sql.outcomes
            rows = await self._lanes.run(lambda connection: connection.fetch(outcomes, [ref.queue], [ref.id]))
            if rows:
                outcome: bytes | None = rows[0]["outcome"]
                return outcome
            if wait > 0 and not self._watcher.closed:
                with anyio.move_on_after(wait):
                    return await ended
        return None
