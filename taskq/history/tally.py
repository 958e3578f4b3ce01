"""Counts and histograms of one task's jobs in one queue: pure."""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from math import floor, log2

import msgspec
from msgspec import Struct, field

STEPS = 4
"""Buckets for each doubling: what is read from them is right to a tenth."""
LOWEST, HIGHEST = -10 * STEPS, 18 * STEPS
"""From a millisecond to three days."""

AGAIN, BACK, LATE = "again", "handed back", "late"
"""What a run may come to besides an end: it used up an attempt, it did not, or its end came too late to count."""

Key = tuple[str, str]
"""Queue and task."""


class Counts(Struct, array_like=True):
    """What became of jobs."""

    ends: dict[str, int] = field(default_factory=dict[str, int])
    """How often each end came; and ``again``, ``handed back`` and ``late``, which are none."""
    waits: dict[int, int] = field(default_factory=dict[int, int])
    """From due to fetched, by bucket."""
    runs: dict[int, int] = field(default_factory=dict[int, int])

    def add(self, other: "Counts") -> None:
        """Count the other's, too."""
        for mine, others in ((self.waits, other.waits), (self.runs, other.runs)):
            for bucket, count in others.items():
                mine[bucket] = mine.get(bucket, 0) + count
        for end, count in other.ends.items():
            self.ends[end] = self.ends.get(end, 0) + count

    @property
    def ended(self) -> int:
        """Jobs that ended for good."""
        return sum(count for end, count in self.ends.items() if end not in (AGAIN, BACK, LATE))


Tally = dict[Key, Counts]


def merged(tallies: Iterable[Mapping[Key, Counts]]) -> Tally:
    """All of them together, in values of its own."""
    together: Tally = {}
    for tally in tallies:
        for key, counts in tally.items():
            together.setdefault(key, Counts()).add(counts)
    return together


def bucket_of(seconds: float) -> int:
    """The bucket of a duration: ``STEPS`` for each doubling, 0 from one second on."""
    if seconds <= 0.001:
        return LOWEST
    return min(HIGHEST, floor(STEPS * log2(seconds)))


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """About how many seconds this share of all took at most; None of none."""
    if not histogram:
        return None
    buckets = sorted(histogram)
    wanted = share * sum(histogram.values())
    reached = accumulate(histogram[bucket] for bucket in buckets)
    bucket = next(bucket for bucket, count in zip(buckets, reached, strict=True) if count >= wanted)
    return float(2 ** ((bucket + 0.5) / STEPS))


def written(tally: Tally) -> bytes:
    """A tally as it is stored."""
    return msgspec.msgpack.encode([(queue, task, counts) for (queue, task), counts in tally.items()])


def read(value: bytes | None) -> Tally:
    """What is stored; nothing where that cannot be read."""
    if value is None:
        return {}
    try:
        rows = msgspec.msgpack.decode(value, type=list[tuple[str, str, Counts]])
    except msgspec.MsgspecError:
        return {}
    return {(queue, task): counts for queue, task, counts in rows}
