"""The four verbs, each one statement; and the outcomes."""

import asyncio
from collections.abc import Sequence
from time import monotonic

import anyio

from taskq.broker import Traits
from taskq.job import Ack, Delivery, Enqueued, Job, JobRef, Lease, Nack, Settlement
from taskq_postgres.lanes import Lanes
from taskq_postgres.marks import Marks
from taskq_postgres.verbs import Fetched, Verbs
from taskq_postgres.watcher import LOOK, Watcher


class PostgresBroker:
    """A queue in a database, shared by every process that opens it."""

    def __init__(self, traits: Traits, verbs: Verbs, lanes: Lanes, watcher: Watcher) -> None:
        self._traits = traits
        self._verbs = verbs
        self._lanes = lanes
        self._watcher = watcher
        self._marks = Marks()
        self._returns: set[asyncio.Task[list[bool]]] = set()

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        # After a silence somebody may be waiting for just these; in a stream of jobs one commit is cheaper than two.
        ahead = self._watcher.silent
        if ahead:
            answers = await self._lanes.run(lambda connection: self._verbs.enqueue_ahead(connection, jobs))
            self._watcher.told()
        else:
            answers = await self._lanes.run(lambda connection: self._verbs.enqueue(connection, jobs, tells=False))
        queues = {job.queue for job, answer in zip(jobs, answers, strict=True) if answer.error is None}
        self._watcher.wake(queues, others=not ahead)
        return answers

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> list[Delivery]:
        if limit <= 0 or not queues:
            return []
        if wait <= 0:
            return (await self._fetch(queues, limit, lease)).deliveries
        loop = asyncio.get_running_loop()
        until, roused = loop.time() + wait, self._watcher.roused

        def over() -> bool:
            return loop.time() >= until or self._watcher.closed or self._watcher.roused != roused

        # The wish comes first, so that nothing is missed that is told between a look and the wait.
        with self._watcher.wishing(queues) as wish:
            while True:
                wish.clear()
                fetched = await self._fetch(queues, limit, lease)
                if fetched.deliveries or over():
                    return fetched.deliveries
                pause = LOOK if fetched.pause is None else min(LOOK, max(fetched.pause, 0.001))
                with anyio.move_on_after(min(until - loop.time(), pause)):
                    await wish.wait()
                if over():
                    return []

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        settled = await self._lanes.run(lambda connection: self._verbs.settle(connection, settlements, tells=False))
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

    async def _fetch(self, queues: Sequence[str], limit: int, lease: float) -> Fetched:
        marks, begun = self._marks.given(), monotonic()
        fetched = await self._lanes.run(
            lambda connection: self._verbs.fetch(connection, queues, limit, lease, marks), abandoned=self._give_back
        )
        self._marks.heard(marks, fetched.passed, fetched.marks, monotonic() - begun)
        return fetched

    def _give_back(self, fetched: Fetched) -> None:
        """Undo leases that never reached their caller: no end, no loss."""
        if fetched.deliveries and not self._watcher.closed:
            nacks = [Nack(delivery.receipt, 0.0, counted=False) for delivery in fetched.deliveries]
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
