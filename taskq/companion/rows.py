"""Rows in a store: each changed by compare-and-set, and sets of ids for whoever looks at all of them."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeVar

from taskq.companion.row import KEPT, Row, read, time_to_live, written
from taskq.job import JobRef
from taskq.store import Store

PREFIX = "companion:"
_QUEUES = f"{PREFIX}queues"
_BURIED = f"{PREFIX}buried:"
AT_ONCE = 1e-6
"""Seconds after which a member lapses that is to be gone, and may come again: what is discarded may not."""

T = TypeVar("T")
Among = Literal["live", "leased", "dead"]


class Rows:
    """What is remembered of jobs."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: dict[str, float] = {}
        """Queues that are known to be listed, and since when."""

    async def get(self, ref: JobRef) -> tuple[Row | None, float]:
        """The row, and the store's clock."""
        entry = await self.store.get(_key(ref))
        return read(entry.value), entry.now

    async def clock(self) -> float:
        """The store's."""
        return (await self.store.get(_QUEUES)).now

    async def change(self, ref: JobRef, think: Callable[[Row | None, float], tuple[Row | None, T]]) -> tuple[T, float]:
        """Make it as ``think`` says of what it is; its answer, and the store's clock."""
        key = _key(ref)
        while True:
            entry = await self.store.get(key)
            row = read(entry.value)
            wanted, answer = think(row, entry.now)
            if wanted is row:
                return answer, entry.now
            new = None if wanted is None else written(wanted)
            ttl = None if wanted is None else time_to_live(wanted, entry.now)
            if await self.store.swap(key, entry.value, new, ttl=ttl):
                return answer, entry.now

    async def hold(self, row: Row, now: float) -> JobRef | None:
        """Give the row its unique key, or answer who holds it.

        The row itself says whether it holds a key; the key only says where that row is. So it is never stranded: one
        that points to a row which is gone is anybody's.
        """
        key, mine = _unique(row), f"{row.life} {row.called.id}"
        ttl = max(min(row.key_until - now, time_to_live(row, now)), AT_ONCE)
        while not await self.store.swap(key, None, mine.encode(), ttl=ttl):
            value = (await self.store.get(key)).value
            if value is None:
                continue
            life, _, name = value.decode().partition(" ")
            ref = JobRef(row.called.queue, name)
            holder, _ = await self.get(ref)
            if value != mine.encode() and holder is not None and holder.life == life and holder.holds:
                return ref
            if await self.store.swap(key, value, mine.encode(), ttl=ttl):
                break
        return None

    async def free(self, row: Row) -> None:
        """Let another have its key."""
        await self.store.swap(_unique(row), f"{row.life} {row.called.id}".encode(), None)

    # Dead letters

    async def count(self, queue: str, change: int) -> None:
        """Note that so many more are there, or fewer by somebody's doing: what else is missing has lapsed.

        Who dies before this has one counted less.
        """
        key, swapped = f"{_BURIED}{queue}", False
        while not swapped:
            value = (await self.store.get(key)).value
            swapped = await self.store.swap(key, value, str(int(value or b"0") + change).encode())

    async def counted(self, queue: str) -> int:
        """How many there would be if none had lapsed."""
        return int((await self.store.get(f"{_BURIED}{queue}")).value or b"0")

    # Who is where

    async def enter(self, among: Among, rows: Iterable[Row], ttl: float = KEPT) -> None:
        """Note these for so long."""
        queues: dict[str, list[str]] = {}
        for row in rows:
            queues.setdefault(row.called.queue, []).append(f"{row.life} {row.called.id}")
        steps = [self.store.add(f"{PREFIX}{among}:{queue}", found, ttl=ttl) for queue, found in queues.items()]
        await asyncio.gather(*steps)

    async def leave(self, among: Among, rows: Iterable[Row]) -> None:
        """No longer."""
        await self.enter(among, rows, AT_ONCE)

    async def ids(self, queue: str, among: Among) -> frozenset[str]:
        """Those noted now."""
        noted = (await self.store.get(f"{PREFIX}{among}:{queue}")).members
        return frozenset(member.partition(" ")[2] for member in noted)

    async def list_queue(self, queue: str, now: float) -> None:
        """See to it that the queue is listed, which it is for as long as it is used."""
        if self._known.get(queue, 0.0) < now - KEPT / 10:
            await self.store.add(_QUEUES, [queue], ttl=KEPT)
            self._known[queue] = now

    async def queues(self) -> Sequence[str]:
        """All that were used in the last days."""
        return sorted((await self.store.get(_QUEUES)).members)


def _key(ref: JobRef) -> str:
    return f"{PREFIX}job:{ref.queue}:{ref.id}"


def _unique(row: Row) -> str:
    return f"{PREFIX}unique:{row.called.queue}:{row.called.unique}"
