"""Who wants to hear of a batch before its end is told when so many of its members have ended, and once.

How many have ended nobody knows without a call for each live chunk. So it is looked at when one of a hundredth of the
members leaves, which of them, is decided by their names: who leaves once more, because a process died, looks once more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from zlib import crc32

from msgspec.structs import replace

from taskq.flow.record import (
    OPEN,
    BatchReport,
    Record,
    batch_key,
    change,
    counted,
    encoded,
    lefts_of,
    read_record,
    sizes_of,
)
from taskq.store import Store

CallBack = Callable[[str, Record, str, bytes], Awaitable[None]]

_FRESH = 60.0
"""Seconds that a look tells how often to look."""
_REMEMBERED = 1000
_SMALL = 100
"""Members of a batch that are told of exactly."""


class Progress:
    """The batches whose members leave here."""

    def __init__(self, store: Store, call_back: CallBack) -> None:
        self._store = store
        self._call_back = call_back
        self._strides: dict[str, tuple[float, int]] = {}
        """When a batch was looked at, and of how many members one looks again; 0: nobody wants to know."""

    def is_due(self, id: str, members: Sequence[str]) -> bool:
        """Whether to look, now that these have left."""
        looked, stride = self._strides.get(id, (-inf, 1))
        if asyncio.get_running_loop().time() - looked > _FRESH:
            return True
        return stride > 0 and any(not crc32(member.encode()) % stride for member in members)

    async def look(self, id: str) -> None:
        """Tell what is due of a batch."""
        # Who adds members tells the batch first, and then how many: what has a size and is not there has ended.
        sizes = await sizes_of(self._store, id)
        entry = await self._store.get(batch_key(id))
        record = read_record(entry.value)
        stride = 0
        if record is not None and not record.cancelled and not record.progress.keys() <= set(record.told):
            lefts = await lefts_of(self._store, id, entry.members)
            # A live chunk without members has just been emptied, or has not been filled.
            pending = sum(lefts.get(chunk, 0) or size for chunk, size in sizes.items() if chunk in lefts)
            total = sum(sizes.values())
            report = await counted(self._store, id, record, total, pending)
            await self.tell(record, report, sealed=OPEN not in entry.members)
            stride = 1 if total <= _SMALL else max(total // 100, len(lefts))
        if len(self._strides) >= _REMEMBERED:
            self._strides.clear()
        self._strides[id] = asyncio.get_running_loop().time(), stride

    async def tell(self, record: Record, report: BatchReport, *, sealed: bool) -> None:
        """Enqueue what is due at these counts and has not been yet."""
        events = list(_due(record, report.total - report.pending, report.total if sealed else inf))
        for event in events:
            await self._call_back(report.id, record, event, encoded(report))
        if events:
            await change(self._store, report.id, lambda now: replace(now, told=tuple(sorted({*now.told, *events}))))


def _due(record: Record, ended: int, total: float) -> Iterable[str]:
    """A fraction of nobody knows how many is never reached."""
    for event, mark in record.progress.items():
        if event not in record.told and ended >= (mark if mark >= 1 else mark * total):
            yield event
