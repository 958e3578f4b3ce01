"""Joining a batch and leaving it. Whoever leaves last enqueues what was to follow, under fixed ids.

Every step may be repeated, as any of it may be the last thing that a process did: a member is added before its job is
enqueued, discarded before its job is settled, and who was discarded once cannot come back.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from itertools import groupby
from math import inf
from operator import attrgetter
from typing import Any, TypeVar

from msgspec import Raw, Struct
from msgspec.structs import replace

from taskq.broker import Broker, DiscardAndSettle
from taskq.errors import BrokerUnavailable, Conflict, TaskqError
from taskq.flow.failing import Failures
from taskq.flow.marks import marked_outcome
from taskq.flow.places import grouped, place_of
from taskq.flow.progress import Progress
from taskq.flow.record import (
    OPEN,
    PENDING,
    Record,
    batch_key,
    change,
    chunk_key,
    encoded,
    failed_key,
    hold,
    lapse,
    list_by_tags,
    parts_key,
    read_record,
    report_of,
    written,
)
from taskq.job import Enqueued, Job, Settlement
from taskq.report import Death, read_outcome
from taskq.sequel import Leave, Place, begin
from taskq.store import Store

T = TypeVar("T")

_chunk = attrgetter("batch", "chunk")

RESUMED = "taskq-resumed"
"""Header of a member's job that is perhaps enqueued for the second time: it looks first whether it has ended."""


class Rest(Struct, frozen=True, gc=False):
    """What remains to be done before members that have left a chunk are settled."""

    batch: str
    chunk: str
    """Empty for a batch in a batch."""
    members: Sequence[str]
    is_empty: bool
    """They were the last: the chunk is to leave the batch."""
    is_due: bool
    """Somebody may want to hear that so many have ended."""


class Membership:
    """The batches of one backend."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store = store
        self._broker = broker
        self.progress = Progress(store, self._call_back)
        self._failures = Failures(store, self._call_back)

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        """Enqueue any number of jobs, in as many calls as the broker needs; BrokerUnavailable when one is unknown."""
        size = self._broker.traits.max_batch
        parts = [await self._broker.enqueue(jobs[start : start + size]) for start in range(0, len(jobs), size)]
        answers = [answer for part in parts for answer in part]
        for answer in answers:
            if isinstance(answer.error, BrokerUnavailable):
                # It has not failed: whoever asked for all of them does so again.
                raise answer.error
        return answers

    # Opening and sealing

    async def open(self, id: str, record: Record) -> bool:
        """Make a batch that cannot end before it is sealed; True when there is one of this id already."""
        key = batch_key(id)
        # First the member: a record without it is that of a batch that was sealed.
        await self._store.add(key, [OPEN])
        entry = await self._store.get(key)
        if OPEN in entry.members:
            await list_by_tags(self._store, id, record, PENDING)
        return not await self._store.swap(key, None, written(replace(record, opened=entry.now)), ttl=PENDING)

    async def seal(self, id: str) -> None:
        """From now on the batch ends with its last member; at once, if there is none."""
        await self._close(id, "", [OPEN])

    # Joining

    async def admit(self, jobs: Sequence[Job], *, again: bool) -> Sequence[Job]:
        """Make jobs of one chunk members; answers those to enqueue. ``again``: it may have been done before."""
        place = place_of(jobs[0])
        members = {place_of(job).member: job for job in jobs}
        key = chunk_key(place.batch, place.chunk)
        await self._store.add(batch_key(place.batch), [place.chunk])
        await asyncio.gather(
            hold(self._store, parts_key(place.batch), [f"{place.chunk}={len(jobs)}"]),
            hold(self._store, key, list(members)),
        )
        live = (await self._store.get(key)).members
        if place.chunk not in (await self._store.get(batch_key(place.batch))).members:
            # It had ended, and what was known of its members gone with it.
            await self._store.discard(key, list(members))
            await self._store.swap(key, b"1", None)
            return []
        # Also who does it for the first time may have stood still meanwhile, and another have done it.
        if not again and len(live) == len(members):
            return jobs
        return [replace(job, headers={**job.headers, RESUMED: "1"}) for name, job in members.items() if name in live]

    async def join(self, parent: str, id: str) -> Place:
        """Make a batch a member of another."""
        place = Place(parent, "", f"@{id}")
        await self._store.add(batch_key(parent), [place.member])
        await hold(self._store, parts_key(parent), [f"{place.member}=1"])
        return place

    async def add(self, jobs: Sequence[Job], *, again: bool) -> dict[str, TaskqError]:
        """Admit numbered members and enqueue them; answers why some were not, by their ids.

        Those have failed. A member whose unique key is held is represented by the holder, and has returned; but not
        where its result is needed.
        """
        errors: dict[str, TaskqError] = {}
        for _, chunk in groupby(jobs, lambda job: place_of(job).chunk):
            admitted = await self.admit(list(chunk), again=again)
            leaves: list[Leave] = []
            for job, answer in zip(admitted, await self.enqueue(admitted), strict=True):
                place, error = place_of(job), answer.error
                if error is None and answer.id != job.id:
                    if place.collects:
                        error = Conflict(f"job {answer.id} holds the unique key of job {job.id}", answer.id)
                    else:
                        leaves.append(Leave(place, succeeded=True))
                if error is not None:
                    errors[job.id] = error
                    leaves.append(Leave(place, succeeded=False, death=encoded(_refused(job, error))))
            if leaves:
                await self.leave(leaves, due=-inf)
        return errors

    async def is_cancelled(self, id: str) -> bool:
        """Whether somebody has asked for the batch to be cancelled."""
        record = read_record((await self._store.get(batch_key(id))).value)
        return record is not None and record.cancelled

    async def has_returned(self, place: Place) -> bool:
        """Whether a member has left its batch for good, and not by failing."""
        if place.member in (await self._store.get(chunk_key(place.batch, place.chunk))).members:
            return False
        if (await self._store.get(batch_key(place.batch))).value is None:
            return False
        return place.member not in (await self._store.get(failed_key(place.batch))).members

    # Leaving

    async def leave(self, leaves: Sequence[Leave], *, due: float = inf, fetched: float = inf) -> None:
        """Members leave their batches; the callbacks of those that are over are enqueued before this returns."""
        await self.finish(await self.step_out(leaves, due=due, fetched=fetched))

    async def step_out(self, leaves: Sequence[Leave], *, due: float = inf, fetched: float = inf) -> Sequence[Rest]:
        """Members leave their chunks; answers of which there is more to do, which is :meth:`finish`.

        ``due`` and ``fetched``: when the last of them was, by the backend's clock.
        """
        await all_of(self._failures.add(leave) for leave in leaves if not leave.succeeded)
        places = grouped([leave.place for leave in leaves], _chunk)
        chunks = {chunk: [place.member for place in found] for chunk, found in places.items()}
        lefts, _ = await asyncio.gather(
            all_of(_count(self._store, batch, chunk, names) for (batch, chunk), names in chunks.items()),
            self._failures.take_back(leaves, {batch for batch, _ in chunks}, due, fetched),
        )
        rest = [
            Rest(batch, chunk, names, not left, self.progress.is_due(batch, names))
            for ((batch, chunk), names), left in zip(chunks.items(), lefts, strict=True)
        ]
        return [one for one in rest if one.is_empty or one.is_due]

    async def settle(
        self,
        leaves: Sequence[Leave],
        settlements: Sequence[Settlement],
        act: DiscardAndSettle,
        *,
        due: float,
        fetched: float,
    ) -> tuple[Sequence[bool], Sequence[Rest]]:
        """Members of one chunk leave it and are settled, as one; none is settled if there is a rest to do before."""
        place, names = leaves[0].place, [leave.place.member for leave in leaves]
        if self.progress.is_due(place.batch, names):
            return (), await self.step_out(leaves, due=due, fetched=fetched)
        await self._failures.take_back(leaves, [place.batch], due, fetched)
        settled = await act(chunk_key(place.batch, place.chunk), names, settlements)
        if settled is None:
            return (), [Rest(place.batch, place.chunk, names, is_empty=True, is_due=False)]
        return settled, ()

    async def finish(self, rest: Sequence[Rest]) -> None:
        """Empty chunks leave their batches, who empties one of those concludes it, and who is to hear of some hears."""
        await all_of(self._close(one.batch, one.chunk, one.members) for one in rest if one.is_empty)
        await all_of(map(self.progress.look, dict.fromkeys(one.batch for one in rest if one.is_due)))

    async def _close(self, id: str, chunk: str, members: Sequence[str]) -> None:
        """A chunk is empty, or a member that is in none has ended: it leaves the batch's own key."""
        if not await self._store.discard(batch_key(id), [chunk] if chunk else members):
            await self.conclude(id)
        if chunk:
            # What has left the batch cannot come back to it, so that nobody asks who was in it.
            await self._store.swap(chunk_key(id, chunk), b"1", None)

    async def conclude(self, id: str) -> None:
        """Do what is to be done when nobody is left: also again, when one that had failed has returned."""
        entry = await self._store.get(batch_key(id))
        record = read_record(entry.value)
        if record is None or record.succeeded:
            return
        report = await report_of(self._store, id, record)
        record = await change(
            self._store,
            id,
            lambda now: replace(now, succeeds=now.succeeds or not (report.failed or now.cancelled)),
        )
        if record is None:
            return
        succeeds = record.succeeds
        if not record.cancelled:
            await self.progress.tell(record, report, sealed=True)
        if record.over is None:
            await self._call_back(id, record, "finished", encoded(report))
        if succeeds:
            results = await self._results(record) if record.gathers else encoded(report)
            await self._call_back(id, record, "succeeded", results)
        if record.parent is not None:
            death = Death(id, "", "", "failed", f"{report.failed} of its {report.total} members failed", 1)
            await self.leave([Leave(record.parent, succeeds, death=encoded(death))])
        over = entry.now if record.over is None else record.over
        # Before, so that who dies between them finds that there is something to do.
        await lapse(self._store, id, record)
        await change(self._store, id, lambda now: replace(now, over=over, succeeded=succeeds), ttl=record.terms.keep)

    async def _call_back(self, id: str, record: Record, event: str, value: bytes) -> None:
        plan = record.plans.get(event)
        if plan is not None:
            await self._broker.enqueue([begin(plan, value, follows=id, id=f"{id}.{event}")])

    async def _results(self, record: Record) -> bytes:
        found = await asyncio.gather(*(marked_outcome(self._store, ref) for ref in record.results))
        return encoded([Raw(b"null") if outcome is None else read_outcome(outcome).value for outcome in found])


async def all_of(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them answer, made at once; one alone costs no task of its own, and none no turn of the loop."""
    several = list(calls)
    if len(several) > 1:
        return await asyncio.gather(*several)
    return [await call for call in several]


async def _count(store: Store, id: str, chunk: str, members: Sequence[str]) -> int:
    return await store.discard(chunk_key(id, chunk), members) if chunk else 0


def _refused(job: Job, error: TaskqError) -> Death:
    return Death(job.id, job.task, job.queue, "failed", f"it was not enqueued: {error}", 0)
