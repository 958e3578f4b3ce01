"""Moments to come: which job is to be sent when, in small portions of time, each a key of its own."""

import asyncio
from collections.abc import Sequence
from math import inf

from msgspec import Struct

from taskq.companion.row import KEPT
from taskq.companion.rows import AT_ONCE, PREFIX
from taskq.store import Entry, Store

_WIDTH = 10.0
"""Seconds of a portion: what is looked through each time a moment is looked for."""
_OVER = 60.0
"""Seconds after which nobody notes anything in a portion that is past."""


class Moment(Struct, frozen=True):
    """When a job is due."""

    due: float
    id: str

    @property
    def portion(self) -> str:
        """That which it is in."""
        return str(int(self.due // _WIDTH))

    @property
    def member(self) -> str:
        """As it is noted there."""
        return f"{self.due!r} {self.id}"


class Later:
    """The moments of each queue."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next: dict[str, float] = {}
        """The first moment of a queue that is known here, by the loop's clock."""

    def next_moment(self, queue: str) -> float:
        """The first that is known here, by the loop's clock."""
        return self._next.get(queue, inf)

    async def note(self, queue: str, moment: Moment, now: float) -> None:
        """Remember a moment."""
        ttl = max(moment.due - now, 0.0) + KEPT
        await self._store.add(_portion(queue, moment.portion), [moment.member], ttl=ttl)
        await self._store.add(_key(queue), [moment.portion], ttl=ttl)
        self._next[queue] = min(self.next_moment(queue), _here(moment.due, now))

    async def past(self, queue: str) -> list[Moment]:
        """The moments that have come; notes when the next one will."""
        listed = await self._store.get(_key(queue))
        portions = sorted(listed.members, key=int)
        begun = [portion for portion in portions if int(portion) * _WIDTH <= listed.now]
        entries = await asyncio.gather(*(self._store.get(_portion(queue, portion)) for portion in begun))
        moments = sorted((moment for entry in entries for moment in _moments(entry)), key=lambda moment: moment.due)
        ahead = (moment.due for moment in moments if moment.due > listed.now)
        begins = min((int(portion) * _WIDTH for portion in portions[len(begun) :]), default=inf)
        self._next[queue] = _here(next(ahead, begins), listed.now)
        over = listed.now - _OVER - _WIDTH
        empty = [p for p, e in zip(begun, entries, strict=True) if not e.members and int(p) * _WIDTH < over]
        if empty:
            await self._store.add(_key(queue), empty, ttl=AT_ONCE)
        return [moment for moment in moments if moment.due <= listed.now]

    async def forget(self, queue: str, moments: Sequence[Moment]) -> None:
        """They have been dealt with."""
        portions: dict[str, list[str]] = {}
        for moment in moments:
            portions.setdefault(_portion(queue, moment.portion), []).append(moment.member)
        # They lapse: what is discarded could not be noted again.
        await asyncio.gather(*(self._store.add(key, found, ttl=AT_ONCE) for key, found in portions.items()))

    async def count(self, queue: str) -> int:
        """How many are to come."""
        listed = await self._store.get(_key(queue))
        entries = await asyncio.gather(*(self._store.get(_portion(queue, portion)) for portion in listed.members))
        return sum(moment.due > listed.now for entry in entries for moment in _moments(entry))


def _here(moment: float, now: float) -> float:
    """A moment of the store's clock by the loop's."""
    return asyncio.get_running_loop().time() + moment - now


def _moments(entry: Entry) -> list[Moment]:
    parts = (member.partition(" ") for member in entry.members)
    return [Moment(float(due), name) for due, _, name in parts]


def _key(queue: str) -> str:
    return f"{PREFIX}later:{queue}"


def _portion(queue: str, portion: str) -> str:
    return f"{PREFIX}later:{queue}:{portion}"
