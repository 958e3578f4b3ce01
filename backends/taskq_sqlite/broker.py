"""The four verbs: each is one step on the writing lane."""

import asyncio
import sqlite3
from collections.abc import Sequence
from time import time

import anyio
from msgspec import Struct

from taskq.broker import Traits
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, JobRef, Lease, Nack, Settlement
from taskq_sqlite import enqueue, fetch, settle
from taskq_sqlite.lane import Lane, Step
from taskq_sqlite.queries import Queries
from taskq_sqlite.settle import Settled
from taskq_sqlite.store import discard
from taskq_sqlite.watcher import Watcher


class Steps(Struct, frozen=True):
    """What the verbs do inside a transaction, on whichever connection it is."""

    sql: Queries
    max_size: int
    dedup_window: float

    def enqueue(self, cursor: sqlite3.Cursor, jobs: Sequence[Job]) -> list[Enqueued]:
        return enqueue.enqueue(cursor, self.sql, jobs, now=time(), max_size=self.max_size)

    def fetch(self, cursor: sqlite3.Cursor, queues: Sequence[str], limit: int, lease: float) -> list[Delivery]:
        return fetch.fetch(cursor, self.sql, queues, limit, lease=lease, now=time())

    def settle(self, cursor: sqlite3.Cursor, settlements: Sequence[Settlement]) -> list[Settled | None]:
        return settle.settle(cursor, self.sql, settlements, now=time(), dedup_window=self.dedup_window)

    def extend(self, cursor: sqlite3.Cursor, receipts: Sequence[str], lease: float) -> tuple[list[Lease], set[str]]:
        return settle.extend(cursor, self.sql, receipts, lease=lease, now=time())


class SqliteBroker:
    """A queue in a database file, shared by every process that opens it."""

    def __init__(self, traits: Traits, steps: Steps, lane: Lane, watcher: Watcher) -> None:
        self._traits = traits
        self._steps = steps
        self._lane = lane
        self._watcher = watcher
        self._returns: set[asyncio.Task[list[bool]]] = set()

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        answers = await self._lane.run(lambda cursor: self._steps.enqueue(cursor, jobs))
        self._watcher.wake({job.queue for job in jobs})
        return answers

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> list[Delivery]:
        def step(cursor: sqlite3.Cursor) -> list[Delivery]:
            return self._steps.fetch(cursor, queues, limit, lease)

        roused = self._watcher.roused
        taken = await self._lane.run(step, abandoned=self._give_back)
        if taken or wait <= 0 or limit <= 0 or not queues:
            return taken
        return await self._wait(queues, step, wait, roused)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return self._told(settlements, await self._lane.run(lambda cursor: self._steps.settle(cursor, settlements)))

    async def discard_and_settle(
        self, key: str, members: Sequence[str], settlements: Sequence[Settlement]
    ) -> list[bool] | None:
        """As :class:`~taskq.broker.DiscardAndSettle`."""

        def step(cursor: sqlite3.Cursor) -> list[Settled | None] | None:
            if not discard(cursor, self._steps.sql, key, members):
                return None
            return self._steps.settle(cursor, settlements)

        answers = await self._lane.run(step)
        return None if answers is None else self._told(settlements, answers)

    def _told(self, settlements: Sequence[Settlement], answers: Sequence[Settled | None]) -> list[bool]:
        """Tell those who wait for what was settled."""
        queues: set[str] = set()
        for settlement, settled in zip(settlements, answers, strict=True):
            if settled is None:
                continue
            queue, name, group = settled
            # A place that has come free may be what a fetch waits for.
            if group is not None or isinstance(settlement, Nack):
                queues.add(queue)
            if isinstance(settlement, Ack | DeadLetter):
                self._watcher.tell((queue, name), settlement.outcome)
        self._watcher.wake(queues)
        return [settled is not None for settled in answers]

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        answers, queues = await self._lane.run(lambda cursor: self._steps.extend(cursor, receipts, lease))
        self._watcher.wake(queues)
        return answers

    async def _wait(
        self, queues: Sequence[str], step: Step[list[Delivery]], wait: float, roused: int
    ) -> list[Delivery]:
        def look(cursor: sqlite3.Cursor) -> tuple[list[Delivery], float | None, float]:
            taken = step(cursor)
            return taken, None if taken else fetch.upcoming(cursor, self._steps.sql, queues), time()

        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        with self._watcher.wishing(queues) as wish:
            while not self._watcher.closed and self._watcher.roused == roused:
                wish.woken.clear()
                taken, wish.moment, now = await self._lane.run(
                    look, abandoned=lambda answer: self._give_back(answer[0])
                )
                left = until - loop.time()
                if taken or left <= 0:
                    return taken
                if wish.moment is not None:
                    # Two clocks are compared: a timer may ring a little before the moment has come.
                    left = min(left, max(wish.moment - now, 0.001))
                with anyio.move_on_after(left):
                    await wish.woken.wait()
                if loop.time() >= until:
                    return []
        return []

    def _give_back(self, taken: Sequence[Delivery]) -> None:
        """Undo leases that never reached their caller: no end, no loss."""
        if taken and not self._watcher.closed:
            nacks = [Nack(delivery.receipt, 0.0, counted=False) for delivery in taken]
            task = asyncio.get_running_loop().create_task(self.settle(nacks))
            self._returns.add(task)
            task.add_done_callback(self._returned)

    def _returned(self, task: "asyncio.Task[list[bool]]") -> None:
        self._returns.discard(task)
        # A failure is nobody's: the leases will end by themselves.
        if not task.cancelled():
            task.exception()


class SqliteExtender:
    """Extends on a lane of its own, from the event loop that opened it."""

    def __init__(self, steps: Steps, lane: Lane, watcher: Watcher) -> None:
        self._steps = steps
        self._lane = lane
        self._watcher = watcher

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        answers, _ = await self._lane.run(lambda cursor: self._steps.extend(cursor, receipts, lease))
        self._watcher.look()
        return answers


class SqliteResults:
    """Outcomes, kept beside the jobs."""

    def __init__(self, sql: Queries, reader: Lane, watcher: Watcher) -> None:
        self._sql = sql
        self._reader = reader
        self._watcher = watcher

    async def outcome(self, ref: JobRef, *, wait: float) -> bytes | None:
        if wait <= 0:
            return await self._read(ref)
        with self._watcher.awaiting((ref.queue, ref.id)) as ended:
            outcome = await self._read(ref)
            if outcome is None and not self._watcher.closed:
                with anyio.move_on_after(wait):
                    return await ended
            return outcome

    async def _read(self, ref: JobRef) -> bytes | None:
        def step(cursor: sqlite3.Cursor) -> bytes | None:
            found = cursor.execute(self._sql.outcome, {"queue": ref.queue, "id": ref.id, "now": time()}).fetchall()
            return found[0][0] if found else None

        return await self._reader.run(step)
