"""A batch in the hands of its producer, and of whoever waits for it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import count, islice
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from taskq.call import Call, Chain, each
from taskq.errors import BatchSealed, JobError, PartlyEnqueued, ResultNotReady, TaskqError
from taskq.flow.members import Membership, all_of
from taskq.flow.places import numbered, ref_of
from taskq.flow.record import (
    CHUNK,
    OPEN,
    BatchReport,
    Ends,
    Record,
    batch_key,
    change,
    check_id,
    check_key,
    chunk_key,
    counted,
    failed_key,
    lefts_of,
    names_of,
    read_record,
    report_of,
    sealed_at,
    sizes_of,
    tagged_key,
)
from taskq.flow.stages import Chunk, Making, Opening, Sealing, changed
from taskq.flow.start import Host, prepare_all, refuse_member
from taskq.handle import JobHandle
from taskq.job import Job, JobRef
from taskq.spread import Spread, later, offsets_of

R = TypeVar("R")

_SLOWEST = 1.0
"""Seconds between two looks of who waits for a batch."""
_UNSAID = Record()
_TOGETHER = 100
"""Results asked for at once."""
_LOOKED_AT = 20
"""Batches looked at at once, each in a few calls."""


class Found(Protocol[R]):
    """A task whose jobs can be asked after."""

    def handle(self, id: str) -> JobHandle[R]:
        """Its job of this id."""
        ...


class BatchStatus(Struct, frozen=True):
    """How far a batch is."""

    id: str
    total: int
    """Members so far."""
    pending: int
    failed: int
    """Those that have ended without returning, but the excused, and not been revived and returned since."""
    sealed: bool
    cancelled: bool
    over: float | None
    """When it ended, in seconds since the epoch; None: it has not."""
    opened: float = 0.0
    """When it was made; so are the others, by the backend's clock."""
    sealed_at: float | None = None
    excused: int = 0
    """Those that ended in a way that the batch excuses."""
    description: str = ""
    tags: Sequence[str] = ()
    succeeded: int = 0
    """Those that have returned."""
    ends: Ends = Ends()
    """How those ended that have failed or are excused."""


class Batch:
    """Many jobs, then one: ``async with app.batch("import", then=…) as batch: await batch.add(calls)``.

    Also a handle: ``await app.batch("import").status()`` asks after one that somebody else has made.
    """

    def __init__(self, host: Host, id: str, draft: Record = _UNSAID, parent: str | None = None) -> None:
        self.id = check_id(id)
        self._host = host
        self._draft = draft
        self._parent = parent
        self._streams = count()
        self._making: Making | None = None
        """While it is open."""

    def __repr__(self) -> str:
        return f"Batch({self.id})"

    # Making

    async def __aenter__(self) -> Self:
        """Begin it, or go on where a producer has died.

        Raises ConfigError for a batch in itself and inside of a transaction, BatchSealed for one in a batch that takes
        no more members.
        """
        self._host.refuse_transaction(f"batch {self.id}")
        plans = {
            event: replace(plan, next=tuple([replace(s, job=await self._host.prepare(s.job)) for s in plan.next]))
            for event, plan in self._draft.plans.items()
        }
        making = Making(self._host.store, self._host.backend, self._host.spool)
        await making.do(Opening(self.id, replace(self._draft, plans=plans), self._parent))
        self._making = making
        self._streams = count()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Seal it; after an exception it stays open, for a producer that goes on, or for :meth:`cancel`."""
        making, self._making = self._making, None
        if error is None and making is not None:
            await making.do(Sealing(self.id))

    async def add(
        self,
        calls: Iterable[Call[Any] | Chain[Any]] | AsyncIterable[Call[Any] | Chain[Any]],
        *,
        key: str | None = None,
        spread: Spread | None = None,
    ) -> int:
        """Add any number of members in bounded memory, and answer how many.

        The m-th call of the n-th ``add`` (or of the one with this ``key``) is one member, however often it is added: a
        producer that begins again with the same calls in the same order doubles and misses none. Raises
        PartlyEnqueued for members that were refused, when all the others are added: they have failed; BatchSealed
        outside of ``async with``; BatchFull beyond ``most``; ConfigError for what cannot be a member.
        """
        making = self._making
        if making is None:
            raise BatchSealed(f"batch {self.id}: members are added inside of `async with app.batch(…)`")
        self._host.refuse_transaction(f"batch {self.id}")
        stream = str(next(self._streams)) if key is None else check_key(key)
        added, number, part = 0, 0, list[Job]()
        errors: dict[int, TaskqError] = {}
        offsets = offsets_of(spread)
        async for call in each(calls):
            refuse_member(call)
            part.append(await prepare_all(self._host, later(call.start(), next(offsets))))
            if len(part) == CHUNK:
                errors |= await self._add_chunk(making, stream, number, part)
                added, number, part = added + len(part), number + 1, []
        if part:
            errors |= await self._add_chunk(making, stream, number, part)
            added, number = added + len(part), number + 1
        if making.has_begun(f"{stream}/{number}"):
            raise changed(self.id, f"it ends at {added:,} calls, before what was added then")
        if errors:
            first = next(iter(errors.values()))
            raise PartlyEnqueued(f"{len(errors)} of {added} members were refused, the first one: {first}", errors)
        return added

    async def _add_chunk(
        self, making: Making, stream: str, number: int, part: Sequence[Job]
    ) -> Mapping[int, TaskqError]:
        jobs = numbered(self.id, stream, number, part)
        errors = await making.do(Chunk(self.id, f"{stream}/{number}", tuple(jobs)))
        return {index: errors[job.id] for index, job in enumerate(jobs, number * CHUNK) if job.id in errors}

    # Looking and waiting

    async def status(self) -> BatchStatus | None:
        """How far it is; None when there is no such batch, or it ended longer ago than its ``keep``."""
        store = self._host.store
        entry = await store.get(batch_key(self.id))
        record = read_record(entry.value)
        if record is None:
            return None
        total = sum((await sizes_of(store, self.id)).values())
        # A chunk that is being added may have its members before its size.
        pending = min(total, sum((await lefts_of(store, self.id, entry.members)).values()))
        report = await counted(store, self.id, record, total, pending)
        return BatchStatus(
            id=self.id,
            total=report.total,
            pending=pending,
            failed=report.failed,
            sealed=OPEN not in entry.members,
            cancelled=record.cancelled,
            over=record.over,
            opened=record.opened,
            sealed_at=record.sealed,
            excused=report.excused,
            description=record.terms.description,
            tags=record.terms.tags,
            succeeded=report.succeeded,
            ends=report.ends,
        )

    async def wait(self, timeout: float | timedelta | None = None) -> BatchReport:
        """Its counts when it has ended; raises ResultNotReady when time is over. Looks once a second at least."""
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        loop = asyncio.get_running_loop()
        until = None if seconds is None else loop.time() + seconds
        pause = 0.02
        while True:
            record = read_record((await self._host.store.get(batch_key(self.id))).value)
            if record is not None and record.over is not None:
                return await report_of(self._host.store, self.id, record)
            if until is not None and loop.time() >= until:
                raise ResultNotReady(f"batch {self.id} has not ended within {timeout} s")
            # Nobody tells: the store has no waiting.
            await asyncio.sleep(pause if until is None else min(pause, max(0.0, until - loop.time())))
            pause = min(_SLOWEST, pause * 2)

    def __await__(self) -> Generator[Any, None, BatchReport]:
        """``await batch`` is ``await batch.wait()``."""
        return self.wait().__await__()

    async def failures(self) -> Sequence[JobRef]:
        """The members that have failed: jobs, most of them dead letters now, that can be revived."""
        members = (await self._host.store.get(failed_key(self.id))).members
        return [ref_of(self.id, member) for member in sorted(members) if not member.startswith("@")]

    async def results(self, task: Found[R]) -> AsyncGenerator[R]:
        """What its members returned, calls of this task, in the order in which they were added; a hundred in memory.

        Who failed has no result: see :meth:`failures`. Raises ResultNotKept for a task that keeps none, and
        ResultNotReady for a member that has not ended, or did so longer ago than results are kept.
        """
        names = names_of(await sizes_of(self._host.store, self.id))
        while part := list(islice(names, _TOGETHER)):
            for found in await all_of(_returned(task.handle(f"{self.id}.{name}")) for name in part):
                for result in found:
                    yield result

    # Ending it

    async def cancel(self) -> bool:
        """Seal it and cancel its members, the batches in it, too; False when there is none, or it has ended.

        It ends when they have: ``finished`` is told then, ``succeeded`` never.
        """
        store = self._host.store
        now = (await store.get(batch_key(self.id))).now
        record = await change(store, self.id, lambda found: _cancelled(found, now))
        if record is None or _has_ended(record):
            return False
        for member in sorted((await store.get(batch_key(self.id))).members):
            if member.startswith("@"):
                await Batch(self._host, member[1:]).cancel()
            elif member != OPEN:
                live = (await store.get(chunk_key(self.id, member))).members
                await self._host.cancel_many([ref_of(self.id, name) for name in sorted(live)])
        await Membership(store, self._host.backend.broker).seal(self.id)
        return True


async def tagged(host: Host, tag: str) -> AsyncGenerator[BatchStatus]:
    """How far the batches with this tag are: those that have not ended, and those that have within a day."""
    ids = iter(sorted((await host.store.get(tagged_key(tag))).members))
    while part := list(islice(ids, _LOOKED_AT)):
        for status in await all_of(Batch(host, one).status() for one in part):
            if status is not None:
                yield status


async def _returned(job: JobHandle[R]) -> Sequence[R]:
    """Its result, if it has one."""
    try:
        return [await job.result(0)]
    except JobError:
        return []


def _cancelled(record: Record, now: float) -> Record:
    return record if _has_ended(record) else replace(sealed_at(record, now), cancelled=True)


def _has_ended(record: Record) -> bool:
    return record.succeeds or record.over is not None
