"""A broker whose enqueue does not fail while the real one is out of reach: jobs wait in a local file until it is back.

Opt-in, for those who defer; workers never use it. What is in the file survives the process, and is shared by all
processes that name the file. While it holds anything, new jobs line up behind, so that none overtakes another. The
stages in which a batch is made lie among the jobs, each as the body of one; what is to be collected lies apart, and
becomes jobs, each of a set of it, before it is handed over.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import time
from typing import TypeVar

import anyio.to_thread
import msgspec
from msgspec import Struct

from taskq.broker import Broker, Traits
from taskq.call import new_id
from taskq.errors import BrokerRejected, BrokerUnavailable, SpoolFull, TaskqError
from taskq.events import Event, JobsRecovered, JobsSpooled
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement
from taskq.spoolfile import STAGE, Lot, Refusal, Row, SpoolFile

T = TypeVar("T")

_log = logging.getLogger("taskq")

PROBE = 0.5
"""Seconds between tries to reach the broker while there is anything to hand over."""
LOOK = 5.0
"""Seconds between looks at the file while there should be nothing in it."""


class Ways(Struct, frozen=True):
    """What a spool asks of the rest."""

    wanted: Callable[[Job], bool]
    """Whether a job is kept at all."""
    replay: Callable[[bytes, float], Awaitable[tuple[str, bytes] | None]]
    """Does a stage that was kept for so many seconds; answers why it was refused, and what of it."""
    gather: Callable[[str, Mapping[str, bytes]], Awaitable[tuple[int, Job | None]]]
    """Makes a set of items that were kept under a key: of how many of them, and the job that runs with it."""
    emit: Callable[[Event], None]


class Spooling:
    """The broker, with the file behind it."""

    def __init__(self, broker: Broker, file: SpoolFile, ways: Ways) -> None:
        self._broker = broker
        self._ways = ways
        # Of two parts one could be taken, while the one before it goes to the file.
        self._traits = msgspec.structs.replace(broker.traits, pipelined=False)
        self._file = file
        self._lock = asyncio.Lock()
        self._holds = asyncio.Event()
        """Set while jobs of this process may be in the file."""

    @property
    def traits(self) -> Traits:
        """Those of the broker, one call at a time."""
        return self._traits

    @property
    def holds(self) -> bool:
        """Whether something of this process may be in the file, so that all else lines up behind."""
        return self._holds.is_set()

    async def keep(self, stage: bytes) -> None:
        """Keep a stage in which a batch is made; raises SpoolFull."""
        stages = [Job(id=new_id(), task=STAGE, body=stage)]
        full = await self._put(lambda: self._file.put(stages), 1)
        if full is not None:
            raise full

    def wants(self, job: Job) -> bool:
        """Whether a job of its task is kept at all."""
        return self._ways.wanted(job)

    async def keep_items(self, key: str, items: Mapping[str, bytes]) -> None:
        """Keep what is to be collected under a key, by its ids, all or none; raises SpoolFull."""
        full = await self._put(lambda: self._file.put_items(key, items), len(items))
        if full is not None:
            raise full

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        """As the broker does; while that is out of reach each job is added to the file, or refused with SpoolFull."""
        if not self._holds.is_set():
            try:
                answers = await self._broker.enqueue(jobs)
            except BrokerUnavailable as error:
                if not any(map(self._ways.wanted, jobs)):
                    raise
                _log.warning("the broker does not answer (%s): jobs are kept in the spool until it does", error)
            else:
                away = [at for at, answer in enumerate(answers) if isinstance(answer.error, BrokerUnavailable)]
                if not away:
                    return answers
                _log.warning("a server of the broker does not answer: its jobs are kept in the spool until it does")
                kept = dict(zip(away, await self._sort([jobs[at] for at in away]), strict=True))
                return [kept.get(at, answer) for at, answer in enumerate(answers)]
        return await self._sort(jobs)

    async def _sort(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        """Keep what is to be kept, and refuse the rest."""
        wanted = [job for job in jobs if self._ways.wanted(job)]
        kept = iter(await self._keep(wanted) if wanted else ())
        unwanted = BrokerUnavailable("the broker is out of reach, and the task's jobs do not wait in the spool")
        taken = {job.id for job in wanted}
        return [next(kept) if job.id in taken else Enqueued(job.id, False, unwanted) for job in jobs]

    async def _keep(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        full = await self._put(lambda: self._file.put(jobs), len(jobs))
        return [Enqueued(job.id, full is None, full) for job in jobs]

    async def _put(self, put: Callable[[], str | None], count: int) -> SpoolFull | None:
        try:
            full = await self._in_thread(put)
        except sqlite3.Error as error:
            full = f"the broker is out of reach, and the spool cannot be written: {error}"
        self._holds.set()
        if full is not None:
            return SpoolFull(full)
        self._ways.emit(JobsSpooled(jobs=count))
        return None

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        """As the broker does."""
        return await self._broker.fetch(queues, limit, lease=lease, wait=wait)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """As the broker does."""
        return await self._broker.settle(settlements)

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        """As the broker does."""
        return await self._broker.extend(receipts, lease)

    async def look(self) -> None:
        """Find out whether an earlier process left anything: then new jobs line up behind."""
        if await self._in_thread(self._file.holds):
            self._holds.set()

    async def run(self) -> None:
        """Hand over what the file holds, whenever it holds anything, until cancelled."""
        while True:
            # What another process left when it died tells nobody.
            with anyio.move_on_after(LOOK):
                await self._holds.wait()
            try:
                if await self._in_thread(self._file.take_turn):
                    try:
                        await self._hand_over()
                    finally:
                        with anyio.CancelScope(shield=True):
                            await self._in_thread(self._file.end_turn)
                    continue
            except (BrokerUnavailable, sqlite3.Error) as error:
                _log.debug("the spool cannot be handed over yet: %s", error)
            await anyio.sleep(PROBE)

    async def _hand_over(self) -> None:
        handed = 0
        while True:
            async with self._lock:
                # Under the lock, or a job could come between this look and what follows from it.
                rows = await anyio.to_thread.run_sync(self._file.first)
                lots = await anyio.to_thread.run_sync(self._file.lots)
                if not rows and not lots:
                    self._holds.clear()
                    break
            errors = await self._hand_over_rows(rows)
            handed += errors.count(None)
            for error in (*errors, *await self._gather(lots)):
                if isinstance(error, BrokerUnavailable):
                    raise error
        if handed:
            _log.warning("the broker answers again, and has all %d jobs and stages of batches of the spool", handed)

    async def _hand_over_rows(self, rows: Sequence[Row]) -> Sequence[Refusal | BrokerUnavailable | None]:
        """Why each was not taken, or None; those that were are in the file no longer."""
        if not rows:
            return []
        errors = await (self._do(rows[0]) if rows[0].is_stage else self._enqueue(rows))
        refused = [error for error in errors if isinstance(error, Refusal)]
        gone = [row.place for row, error in zip(rows, errors, strict=True) if error is None]
        for each in refused:
            what = "a stage of a batch" if each.job.task == STAGE else f"job {each.job.id}"
            _log.error("%s was refused by the broker, and stays in the spool: %s", what, each.reason)
        await self._in_thread(partial(self._file.settle, gone, refused))
        if gone or refused:
            self._ways.emit(JobsRecovered(jobs=len(gone), refused=len(refused)))
        return errors

    async def _gather(self, lots: Sequence[Lot]) -> Sequence[TaskqError | None]:
        """Make sets of what is to be collected: each leaves its job in the file, or stays there, with the reason."""
        made = await asyncio.gather(*map(self._make_set, lots))
        for lot, answer in zip(lots, made, strict=True):
            if isinstance(answer, BrokerUnavailable):
                continue
            if isinstance(answer, TaskqError):
                _log.error("items of %s were refused by the store, and stay in the spool: %s", lot.key, answer)
                await self._in_thread(partial(self._file.refuse, lot, str(answer)))
                self._ways.emit(JobsRecovered(jobs=0, refused=len(lot.places)))
                continue
            count, job = answer
            await self._in_thread(partial(self._file.gathered, lot, count, job))
            if job is not None:
                self._ways.emit(JobsSpooled(jobs=1))
            self._ways.emit(JobsRecovered(jobs=count, refused=0))
        return [answer if isinstance(answer, TaskqError) else None for answer in made]

    async def _make_set(self, lot: Lot) -> tuple[int, Job | None] | TaskqError:
        try:
            return await self._ways.gather(lot.key, lot.items)
        except TaskqError as error:
            return error

    async def _do(self, row: Row) -> Sequence[Refusal | None]:
        refused = await self._ways.replay(row.job.body, time() - row.at)
        if refused is None:
            return [None]
        reason, rest = refused
        return [Refusal(row.place, reason, msgspec.structs.replace(row.job, body=rest))]

    async def _enqueue(self, rows: Sequence[Row]) -> Sequence[Refusal | BrokerUnavailable | None]:
        """Why each was not taken, or None."""
        now = time()
        jobs = [row.job.aged(now - row.at) for row in rows]
        try:
            size = self.traits.max_batch
            answers = [
                answer
                for at in range(0, len(jobs), size)
                for answer in await self._broker.enqueue(jobs[at : at + size])
            ]
        except BrokerRejected as error:
            if len(rows) == 1:
                return [Refusal(rows[0].place, str(error), rows[0].job)]
            return [refused for row in rows for refused in await self._enqueue([row])]
        return [_refusal(row, answer.error) for row, answer in zip(rows, answers, strict=True)]

    async def _in_thread(self, call: Callable[[], T]) -> T:
        async with self._lock:
            return await anyio.to_thread.run_sync(call)


def _refusal(row: Row, error: TaskqError | None) -> Refusal | BrokerUnavailable | None:
    if error is None or isinstance(error, BrokerUnavailable):
        return error
    return Refusal(row.place, str(error), row.job)


@asynccontextmanager
async def spooling(broker: Broker, file: SpoolFile, ways: Ways) -> AsyncGenerator[Spooling]:
    """The broker with a spool, handed over from as long as the context is open, which closes the file."""
    spool = Spooling(broker, file, ways)
    await spool.look()
    # Not a task group: it would wrap whatever the body raises into a group.
    runner = asyncio.get_running_loop().create_task(spool.run())
    try:
        yield spool
    finally:
        runner.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({runner})
        file.close()
