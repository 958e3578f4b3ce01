"""What all workers have written of the last days."""

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import Struct

from taskq.history.historian import SHELF, SLICE, shelf_key, slice_key
from taskq.history.marks import Mark, marks_since
from taskq.history.tally import Counts, Key, Tally, merged, read
from taskq.store import Entry, Store

AT_ONCE = 50
"""Reads under way."""


class Past(Struct, frozen=True):
    """What became of jobs since a moment."""

    since: int
    """When the first slice began, in seconds since the epoch, by the backend's clock."""
    until: float
    slices: Mapping[int, Tally]
    """By their beginning; those in which nothing happened are left out."""
    marks: Sequence[Mark] = ()
    """What was noted meanwhile, the oldest first."""

    @property
    def totals(self) -> Mapping[Key, Counts]:
        """All of it, by queue and task."""
        return dict(sorted(merged(self.slices.values()).items()))

    def course(self, key: Key, parts: int) -> Sequence[int]:
        """How many jobs ended in each of so many equal parts of the time."""
        counts = [0] * parts
        for start, tally in self.slices.items():
            if key in tally:
                counts[self.part_of(start, parts)] += tally[key].ended
        return counts

    def part_of(self, moment: int, parts: int) -> int:
        """In which of so many equal parts of the time a moment is."""
        part = (moment - self.since) * parts // max(SLICE, int(self.until) - self.since)
        return min(parts - 1, max(0, part))


async def look_back(store: Store, seconds: float, *, queue: str | None = None, task: str | None = None) -> Past:
    """What became of the jobs of this queue and task, or of all, in the last ``seconds``, in whole slices."""
    now = (await store.get(shelf_key(0))).now
    since = max(0, int(now - seconds)) // SLICE * SLICE
    shelves = await _read(store, [shelf_key(start) for start in range(since // SHELF * SHELF, int(now) + 1, SHELF)])
    names = [name for shelf in shelves for name in sorted(shelf.members) if int(name.partition("/")[0]) >= since]
    slices: dict[int, list[Tally]] = {}
    for name, entry in zip(names, await _read(store, [slice_key(name) for name in names]), strict=True):
        slices.setdefault(int(name.partition("/")[0]), []).append(
            {
                key: counts
                for key, counts in read(entry.value).items()
                if queue in (None, key[0]) and task in (None, key[1])
            }
        )
    totals = {start: merged(tallies) for start, tallies in sorted(slices.items())}
    return Past(since, now, totals, await marks_since(store, since))


async def _read(store: Store, keys: Sequence[str]) -> Sequence[Entry]:
    found: list[Entry] = []
    for first in range(0, len(keys), AT_ONCE):
        found += await asyncio.gather(*map(store.get, keys[first : first + AT_ONCE]))
    return found
