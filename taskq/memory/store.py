"""The store part: keys in a dict, each with its members and what it remembers of those discarded."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from math import inf
from threading import Lock

from taskq.memory.ranks import Ranks
from taskq.store import Entry


class _Slot:
    """One key: a value, members, and discarded members that may not come back. Each member has its end."""

    __slots__ = ("discarded", "members", "until", "value")

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.until = inf
        self.members: Ranks[str, float] = Ranks()
        self.discarded: Ranks[str, float] = Ranks()

    def lapse(self, now: float) -> None:
        for lapsing in (self.members, self.discarded):
            for _ in lapsing.up_to(now):
                pass

    def next_end(self) -> float:
        firsts = (self.members.first(), self.discarded.first())
        return min(self.until, *(first[0] for first in firsts if first is not None), inf)


class MemoryStore:
    """Atomic because nothing in here waits, and nobody passes its lock; may be called from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch: float, check: Callable[[], None]) -> None:
        self._loop = loop
        self._epoch = epoch
        self._check = check
        """Raises when the backend is closed."""
        self._lock = Lock()
        self._slots: dict[str, _Slot] = {}
        self._ends: Ranks[str, float] = Ranks()
        """When the next thing in each slot lapses."""

    async def get(self, key: str) -> Entry:
        with self._lock:
            now = self._now()
            slot = self._slots.get(key)
            if slot is None:
                return Entry(None, frozenset(), self._epoch + now)
            return Entry(slot.value, frozenset(slot.members), self._epoch + now)

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        with self._lock:
            now = self._now()
            slot = self._slots.get(key) or _Slot()
            if slot.value != old:
                return False
            slot.value = new
            if ttl is not None:
                slot.until = now + ttl
            self._put(key, slot)
            return True

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        with self._lock:
            now = self._now()
            slot = self._slots.get(key) or _Slot()
            adding = {member for member in members if member not in slot.discarded}
            if ceiling is not None and len(adding.union(slot.members)) > ceiling:
                return False
            for member in adding:
                slot.members.put(member, inf if ttl is None else now + ttl)
            self._put(key, slot)
            return True

    async def discard(self, key: str, members: Sequence[str]) -> int:
        with self._lock:
            self._now()
            slot = self._slots.get(key)
            if slot is None:
                return 0
            for member in members:
                if (until := slot.members.rank(member)) is not None:
                    slot.members.drop(member)
                    slot.discarded.put(member, until)
            self._put(key, slot)
            return len(slot.members)

    def keys(self) -> Iterable[str]:
        """Every key that holds anything."""
        self._now()
        return self._slots.keys()

    def _now(self) -> float:
        self._check()
        now = self._loop.time()
        for key in list(self._ends.up_to(now)):
            slot = self._slots[key]
            if slot.until <= now:
                del self._slots[key]
            else:
                slot.lapse(now)
                self._put(key, slot)
        return now

    def _put(self, key: str, slot: _Slot) -> None:
        if slot.value is None and not slot.members:
            self._slots.pop(key, None)
            self._ends.drop(key)
            return
        self._slots[key] = slot
        end = slot.next_end()
        if end == inf:
            self._ends.drop(key)
        elif end != self._ends.rank(key):
            self._ends.put(key, end)
