"""What is stored of a batch, and under which keys.

A batch is one key with its record and, as members, its live chunks: parts of up to a thousand members, each counted in
a key of its own. So the cost of an end does not grow with the batch, and workers on different chunks meet nowhere.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskq.errors import ConfigError
from taskq.job import JobRef
from taskq.report import End
from taskq.sequel import Place, Plan
from taskq.store import Store

CHUNK = 1000
"""Members in a chunk: enough that a chunk's own round trips do not count, few enough to be read at once."""
PENDING = 90 * 86_400.0
"""Seconds that a batch has to end."""
KEPT = 7 * 86_400.0
"""Seconds that is known of a batch after its end, at least: as long as a job may wait for its next delivery."""
EXCUSABLE = ("expired", "discarded", "cancelled")
"""Ends of members that a batch may excuse: what was tried and failed is none of them."""
REVIVABLE: Sequence[End] = ("quarantined", "lost")
"""Ends beside failing from which a member may come back and end in another way."""
TOLD_APART: Sequence[End] = (*REVIVABLE, "cancelled", "expired", "discarded")
"""Ends whose members have a key each: who is among the failed and in none of them has just failed."""
LISTED = 86_400.0
"""Seconds that a batch is found by its tags after its end."""
MOST_LISTED = 10_000
"""Batches that are found by one tag."""
OPEN = "open"
"""The member that its producer is: the batch cannot end before it is sealed."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
_KEY = re.compile(r"[A-Za-z][\w-]{0,59}", re.ASCII)
_TOLD = re.compile(r"succeeded|finished|first_failure|progress-.*")
"""Callbacks go by these names, and their chains by numbers behind them, as the members of a stream do."""


class Terms(Struct, frozen=True, omit_defaults=True):
    """What else is said of a batch when it is made."""

    description: str = ""
    tags: tuple[str, ...] = ()
    excuses: tuple[End, ...] = ()
    """Ends of members that are no failures of the batch."""
    most: int = 10_000_000
    """Members that it takes."""
    deepest: int = 100
    """Levels of members that were added by members, and of batches in it."""
    keep: float = KEPT
    """Seconds that is known of it after its end."""


class Record(Struct, frozen=True, omit_defaults=True):
    """A batch but for its members."""

    opened: float = 0.0
    """When, by the backend's clock; so are the others."""
    plans: Mapping[str, Plan] = {}
    """What is enqueued at ``succeeded``, ``finished``, ``first_failure`` and on the way."""
    progress: Mapping[str, float] = {}
    """When the plans on the way are due: at so many members, or at a fraction of them, which is below 1."""
    told: tuple[str, ...] = ()
    """Which of them have been enqueued."""
    terms: Terms = Terms()
    sealed: float | None = None
    """When, for who looks at it: that it is, is told by its members."""
    results: tuple[JobRef, ...] = ()
    """Whose results ``succeeded`` gets in this order, when it ``gathers``; otherwise it gets a report."""
    gathers: bool = False
    parent: Place | None = None
    cancelled: bool = False
    succeeds: bool = False
    """Decided before anything follows from it, so that a cancellation comes before the end or after it."""
    over: float | None = None
    succeeded: bool = False
    """What follows has been done."""


def check_id(id: object) -> str:
    """A batch's id; raises ConfigError."""
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise ConfigError(f"batch id {id!r}: use up to 100 letters, digits, '_', '.' and '-', the first no sign")
    return id


def check_key(key: object) -> str:
    """What a producer calls a stream of members; raises ConfigError."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ConfigError(f"key {key!r}: use up to 60 letters, digits, '_' and '-', the first a letter")
    if _TOLD.fullmatch(key):
        raise ConfigError(f"key {key!r} is the name of a callback: choose another, as 'part-{key}'")
    return key


def batch_key(id: str) -> str:
    """The record, and the live chunks."""
    return f"batch:{id}"


def chunk_key(id: str, chunk: str) -> str:
    """The live members of a chunk."""
    return f"batch:{id}:{chunk}"


def parts_key(id: str) -> str:
    """Every chunk there has been, with its size: ``0/3=1000``."""
    return f"batch:{id}:parts"


def failed_key(id: str) -> str:
    """The members that did not return and are not excused, and have not been revived and returned since."""
    return f"batch:{id}:failed"


def ended_key(id: str, end: End) -> str:
    """The members that ended in this way, which is one of those told apart."""
    return f"batch:{id}:{end}"


def first_key(id: str) -> str:
    """The first member that failed."""
    return f"batch:{id}:first"


def tagged_key(tag: str) -> str:
    """The ids of batches with this tag."""
    return f"batches:{tag}"


def read_record(value: bytes | None) -> Record | None:
    """The record of a batch, None when there is no such batch."""
    return None if value is None else msgspec.json.decode(value, type=Record)


def written(record: Record) -> bytes:
    """The record as it is stored."""
    return msgspec.json.encode(record)


def sealed_at(record: Record, now: float) -> Record:
    """The record of a batch that is sealed now, if it was not before."""
    return record if record.sealed is not None else replace(record, sealed=now)


async def change(
    store: Store, id: str, changed: Callable[[Record], Record], *, ttl: float | None = None
) -> Record | None:
    """Change a batch's record, whoever else changes it meanwhile; answers the new one, None when there is none."""
    while True:
        value = (await store.get(batch_key(id))).value
        record = read_record(value)
        if record is None:
            return None
        record = changed(record)
        if await store.swap(batch_key(id), value, written(record), ttl=ttl):
            return record


async def hold(store: Store, key: str, members: Sequence[str]) -> None:
    """Add members to a key with an end, and with a value: without one it would forget whom it has discarded."""
    await store.swap(key, None, b"1", ttl=PENDING)
    await store.add(key, members)


class Ends(Struct, frozen=True, repr_omit_defaults=True):
    """How many members ended in each way but by returning; who was revived and ended once more, as it ended last."""

    failed: int = 0
    """By what they raised, or because they were refused."""
    quarantined: int = 0
    lost: int = 0
    cancelled: int = 0
    expired: int = 0
    discarded: int = 0


class BatchReport(Struct, frozen=True, repr_omit_defaults=True):
    """What the callbacks of a batch are told."""

    id: str
    total: int
    failed: int
    """Members that did not return, however they ended, but those that are excused."""
    excused: int = 0
    """Members that did not return, in a way that the batch excuses."""
    pending: int = 0
    """Members that have not ended: none, but on the way."""
    ends: Ends = Ends()
    """How those ended that have failed or are excused."""

    @property
    def succeeded(self) -> int:
        """How many members returned."""
        return self.total - self.failed - self.excused - self.pending


async def sizes_of(store: Store, id: str) -> Mapping[str, int]:
    """How many members each chunk has had that was ever begun."""
    parts = (part.partition("=") for part in (await store.get(parts_key(id))).members)
    return {chunk: int(size) for chunk, _, size in parts}


def names_of(sizes: Mapping[str, int]) -> Iterator[str]:
    """The members of these chunks: stream by stream, each in the order in which they were added."""
    for chunk in sorted((chunk for chunk in sizes if "/" in chunk), key=_rank):
        prefix, _, number = chunk.partition("/")
        first = int(number) * CHUNK
        yield from (f"{prefix}.{index}" for index in range(first, first + sizes[chunk]))


def _rank(chunk: str) -> tuple[Sequence[tuple[int, str]], int]:
    """Numbers count as such: ``0/10`` is behind ``0/9``."""
    prefix, _, number = chunk.partition("/")
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in prefix.split(".")], int(number)


async def lefts_of(store: Store, id: str, live: Iterable[str]) -> Mapping[str, int]:
    """How many members are left in each live chunk of a batch, and one for each batch in it."""
    left = {member: 1 for member in live if member.startswith("@")}
    chunks = [member for member in live if "/" in member]
    counts = await asyncio.gather(*(store.discard(chunk_key(id, chunk), ()) for chunk in chunks))
    return left | dict(zip(chunks, counts, strict=True))


async def report_of(store: Store, id: str, record: Record) -> BatchReport:
    """Its counts, when all have ended."""
    return await counted(store, id, record, sum((await sizes_of(store, id)).values()))


async def counted(store: Store, id: str, record: Record, total: int, pending: int = 0) -> BatchReport:
    """The counts of a batch of so many members; how they ended is asked only where some may not have returned."""
    failed, excuses, ended = await store.discard(failed_key(id), ()), record.terms.excuses, total - pending
    if not (failed or excuses):
        return BatchReport(id, total, 0, pending=pending)
    numbers = await asyncio.gather(*(store.discard(ended_key(id, end), ()) for end in TOLD_APART))
    ends = dict(zip(TOLD_APART, numbers, strict=True))
    excused = sum(ends[end] for end in excuses)
    ends["failed"] = max(failed + excused - sum(numbers), 0)
    # On the way there are those who are about to leave.
    failed = min(failed, ended)
    return BatchReport(id, total, failed, min(excused, ended - failed), pending, Ends(**ends))


async def lapse(store: Store, id: str, record: Record) -> None:
    """It has ended: from now on what is known of its members lasts as long as it says, and its tags find it a day."""
    first, held = (await store.get(first_key(id))).value, {parts_key(id): b"1"}
    if first is not None:
        held |= {first_key(id): first, failed_key(id): b"1"}
    if first is not None or record.terms.excuses:
        held |= {ended_key(id, end): b"1" for end in TOLD_APART}
    await asyncio.gather(*(store.swap(key, value, value, ttl=record.terms.keep) for key, value in held.items()))
    await list_by_tags(store, id, record, LISTED)


async def list_by_tags(store: Store, id: str, record: Record, seconds: float) -> None:
    """For so long the batch is found by its tags."""
    keys = map(tagged_key, record.terms.tags)
    await asyncio.gather(*(store.add(key, [id], ttl=seconds, ceiling=MOST_LISTED) for key in keys))


def encoded(value: object) -> bytes:
    """A value as it stands in a call's body."""
    return msgspec.json.encode(value)
