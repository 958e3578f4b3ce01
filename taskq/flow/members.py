"""Joining a batch and leaving it. Whoever leaves last enqueues what was to follow, under fixed ids.

Every step may be repeated, as any of it may be the last thing that a process did: a member is added before its job is
enqueued, discarded before its job is settled, and who was discarded once cannot come back.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from itertools import groupby
from math import inf
from typing import Any, TypeVar

from msgspec import Raw, Struct
from msgspec.json import decode
from msgspec.structs import replace

from taskq.broker import Broker, DiscardAndSettle
from taskq.errors import BrokerUnavailable, ConfigError, Conflict, TaskqError
from taskq.flow.marks import has_died_after, marked_outcome
from taskq.flow.progress import Progress
from taskq.flow.record import (
    CHUNK,
    EXCUSABLE,
    OPEN,
    PENDING,
    REVIVABLE,
    Record,
    batch_key,
    change,
    chunk_key,
    encoded,
    ended_key,
    failed_key,
    first_key,
    lapse,
    list_by_tags,
    parts_key,
    read_record,
    report_of,
    written,
)
from taskq.job import Enqueued, Job, JobRef, Settlement
from taskq.report import Death, End, read_outcome
from taskq.sequel import Leave, Place, begin, plan_of, renamed
from taskq.store import Store

T = TypeVar("T")

_REMEMBERED = 1000
_CHEAPER = 20
"""Names of failed members that are read at the price of looking for one member's mark."""
LONGEST = 200
"""Characters of a job's id."""
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
        self._clean: dict[str, float] = {}
        """Batches of which nobody counted as failed at this moment, by the backend's clock."""

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
        place = _place(jobs[0])
        members = {_place(job).member: job for job in jobs}
        key = chunk_key(place.batch, place.chunk)
        await self._store.add(batch_key(place.batch), [place.chunk])
        await asyncio.gather(
            self._hold(parts_key(place.batch), [f"{place.chunk}={len(jobs)}"]), self._hold(key, list(members))
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

    async def _hold(self, key: str, members: Sequence[str]) -> None:
        """Add members to a key with an end, and with a value: without one it would forget whom it has discarded."""
        await self._store.swap(key, None, b"1", ttl=PENDING)
        await self._store.add(key, members)

    async def join(self, parent: str, id: str) -> Place:
        """Make a batch a member of another."""
        place = Place(parent, "", f"@{id}")
        await self._store.add(batch_key(parent), [place.member])
        await self._hold(parts_key(parent), [f"{place.member}=1"])
        return place

    async def add(self, jobs: Sequence[Job], *, again: bool) -> dict[str, TaskqError]:
        """Admit numbered members and enqueue them; answers why some were not, by their ids.

        Those have failed. A member whose unique key is held is represented by the holder, and has returned; but not
        where its result is needed.
        """
        errors: dict[str, TaskqError] = {}
        for _, chunk in groupby(jobs, lambda job: _place(job).chunk):
            admitted = await self.admit(list(chunk), again=again)
            leaves: list[Leave] = []
            for job, answer in zip(admitted, await self.enqueue(admitted), strict=True):
                place, error = _place(job), answer.error
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
        await all_of(self._fail(leave) for leave in leaves if not leave.succeeded)
        chunks = _by_chunk([leave.place for leave in leaves])
        lefts, _ = await asyncio.gather(
            all_of(_count(self._store, batch, chunk, names) for (batch, chunk), names in chunks.items()),
            self._take_back(leaves, {batch for batch, _ in chunks}, due, fetched),
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
        await self._take_back(leaves, [place.batch], due, fetched)
        settled = await act(chunk_key(place.batch, place.chunk), names, settlements)
        if settled is None:
            return (), [Rest(place.batch, place.chunk, names, is_empty=True, is_due=False)]
        return settled, ()

    async def _take_back(self, leaves: Sequence[Leave], batches: Iterable[str], due: float, fetched: float) -> None:
        """One that had failed, was revived and has returned has failed no more.

        Who was revived is due from then on, so that what was due before anybody had failed needs no call: one a batch,
        if its members were all there.
        """
        if not any(leave.succeeded for leave in leaves):
            return
        asked = [batch for batch in batches if due >= self._clean.get(batch, 0.0)]
        if not asked:
            return
        numbers = await all_of(self._store.discard(failed_key(batch), ()) for batch in asked)
        failed = dict(zip(asked, numbers, strict=True))
        await all_of(self._revived(batch, leaves, number) for batch, number in failed.items() if number)
        if len(self._clean) > _REMEMBERED:
            self._clean.clear()
        if fetched < inf:
            self._clean.update({batch: fetched for batch, number in failed.items() if not number})

    async def finish(self, rest: Sequence[Rest]) -> None:
        """Empty chunks leave their batches, who empties one of those concludes it, and who is to hear of some hears."""
        await all_of(self._close(one.batch, one.chunk, one.members) for one in rest if one.is_empty)
        await all_of(map(self.progress.look, dict.fromkeys(one.batch for one in rest if one.is_due)))

    async def _revived(self, id: str, leaves: Sequence[Leave], number: int) -> None:
        """Who has returned has not failed, unless a run that did overtook it while it stood still."""
        returned = [leave for leave in leaves if leave.succeeded and leave.place.batch == id]
        if number <= _CHEAPER * len(returned):
            failed = (await self._store.get(failed_key(id))).members
            returned = [leave for leave in returned if leave.place.member in failed]
        overtaken = await all_of(self._was_overtaken(leave) for leave in returned)
        names = [leave.place.member for leave, late in zip(returned, overtaken, strict=True) if not late]
        if names:
            # Before, so that who dies between them finds them failed once more.
            await all_of(self._store.discard(ended_key(id, end), names) for end in REVIVABLE)
            await self._store.discard(failed_key(id), names)

    async def _was_overtaken(self, leave: Leave) -> bool:
        place = leave.place
        return leave.fence > 0 and await has_died_after(self._store, ref_of(place.batch, place.member), leave.fence)

    async def _close(self, id: str, chunk: str, members: Sequence[str]) -> None:
        """A chunk is empty, or a member that is in none has ended: it leaves the batch's own key."""
        if not await self._store.discard(batch_key(id), [chunk] if chunk else members):
            await self.conclude(id)
        if chunk:
            # What has left the batch cannot come back to it, so that nobody asks who was in it.
            await self._store.swap(chunk_key(id, chunk), b"1", None)

    async def _fail(self, leave: Leave) -> None:
        batch, member = leave.place.batch, leave.place.member
        end = decode(leave.death, type=Death).end
        await self._tell_apart(batch, member, end)
        if await self._is_excused(batch, end):
            # It may have failed before it was revived.
            await self._store.discard(failed_key(batch), [member])
            return
        await self._hold(failed_key(batch), [member])
        first = first_key(batch)
        await self._store.swap(first, None, member.encode(), ttl=PENDING)
        if (await self._store.get(first)).value != member.encode():
            return
        record = read_record((await self._store.get(batch_key(batch))).value)
        if record is not None and not record.cancelled:
            await self._call_back(batch, record, "first_failure", leave.death)

    async def _tell_apart(self, id: str, member: str, end: End) -> None:
        """How it ended counts, and not how it had before it was revived."""
        if end != "failed":
            await self._hold(ended_key(id, end), [member])
        await all_of(self._store.discard(ended_key(id, other), [member]) for other in REVIVABLE if other != end)

    async def _is_excused(self, id: str, end: End) -> bool:
        if end not in EXCUSABLE:
            return False
        record = read_record((await self._store.get(batch_key(id))).value)
        return record is not None and end in record.terms.excuses

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


def numbered(batch: str, prefix: str, chunk: int, jobs: Sequence[Job], *, collects: bool = False) -> list[Job]:
    """The jobs of one chunk, each under the id and with the place that its number gives it."""
    return [
        renamed(job, f"{batch}.{name}", Place(batch, f"{prefix}/{chunk}", f"{name}@{job.queue}", collects))
        for name, job in ((f"{prefix}.{index}", job) for index, job in enumerate(jobs, chunk * CHUNK))
    ]


def numbered_behind(place: Place, jobs: Sequence[Job]) -> tuple[Job, ...]:
    """What a member adds, numbered behind it; raises ConfigError for an id that has grown too long."""
    prefix = place.member.partition("@")[0]
    chunks = [
        numbered(place.batch, prefix, number, jobs[number * CHUNK : (number + 1) * CHUNK])
        for number in range(-(-len(jobs) // CHUNK))
    ]
    added = tuple(job for chunk in chunks for job in chunk)
    if added and len(added[-1].id) > LONGEST:
        raise ConfigError(f"batch {place.batch}: members add members too many levels deep: their ids grow with each")
    return added


def ref_of(batch: str, member: str) -> JobRef:
    """Where the job of a member is to be found."""
    name, _, queue = member.partition("@")
    return JobRef(queue, f"{batch}.{name}")


async def _count(store: Store, id: str, chunk: str, members: Sequence[str]) -> int:
    return await store.discard(chunk_key(id, chunk), members) if chunk else 0


def _refused(job: Job, error: TaskqError) -> Death:
    return Death(job.id, job.task, job.queue, "failed", f"it was not enqueued: {error}", 0)


def _by_chunk(places: Sequence[Place]) -> dict[tuple[str, str], list[str]]:
    """The members of each batch's chunks: those that were fetched together are mostly of one."""
    chunks: dict[tuple[str, str], list[str]] = {}
    batch = chunk = None
    members: list[str] = []
    for place in places:
        if place.chunk != chunk or place.batch != batch:
            batch, chunk = place.batch, place.chunk
            members = chunks.setdefault((batch, chunk), [])
        members.append(place.member)
    return chunks


def _place(job: Job) -> Place:
    plan = plan_of(job)
    assert plan is not None and plan.place is not None, "only members are admitted"  # noqa: S101, PT018
    return plan.place
