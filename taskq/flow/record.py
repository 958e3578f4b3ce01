"""What is stored of a batch, and under which keys.

A batch is one key with its record and, as members, its live chunks: parts of up to a thousand members, each counted in
a key of its own. So the cost of an end does not grow with the batch, and workers on different chunks meet nowhere.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct

from taskq.errors import ConfigError
from taskq.job import JobRef
from taskq.sequel import Place, Plan
from taskq.store import Store

CHUNK = 1000
"""Members in a chunk: enough that a chunk's own round trips do not count, few enough to be read at once."""
PENDING = 90 * 86_400.0
"""Seconds that a batch has to end."""
KEPT = 7 * 86_400.0
"""Seconds that is known of a batch after its end: as long as the marks of its callbacks."""
OPEN = "open"
"""The member that its producer is: the batch cannot end before it is sealed."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
_KEY = re.compile(r"[A-Za-z][\w-]{0,59}", re.ASCII)


class Record(Struct, frozen=True, omit_defaults=True):
    """A batch but for its members."""

    opened: float = 0.0
    """When, by the backend's clock; so are the others."""
    plans: Mapping[str, Plan] = {}
    """What is enqueued at ``succeeded``, ``finished`` and ``first_failure``."""
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
    """The members that have failed, and not been revived and returned since."""
    return f"batch:{id}:failed"


def first_key(id: str) -> str:
    """The first member that failed."""
    return f"batch:{id}:first"


def read_record(value: bytes | None) -> Record | None:
    """The record of a batch, None when there is no such batch."""
    return None if value is None else msgspec.json.decode(value, type=Record)


def written(record: Record) -> bytes:
    """The record as it is stored."""
    return msgspec.json.encode(record)


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


class BatchReport(Struct, frozen=True):
    """What the callbacks of a batch are told."""

    id: str
    total: int
    failed: int

    @property
    def succeeded(self) -> int:
        """How many members returned."""
        return self.total - self.failed


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


async def report_of(store: Store, id: str) -> BatchReport:
    """Its counts."""
    failed = await store.discard(failed_key(id), ())
    return BatchReport(id, sum((await sizes_of(store, id)).values()), failed)


def encoded(value: object) -> bytes:
    """A value as it stands in a call's body."""
    return msgspec.json.encode(value)
