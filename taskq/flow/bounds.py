"""How large and how deep a batch may grow, for one that adds members to itself without end."""

from collections.abc import Sequence

from taskq.errors import BatchFull
from taskq.flow.record import CHUNK, Record, batch_key, parts_key, read_record, sizes_of
from taskq.job import Job
from taskq.sequel import Place
from taskq.store import Store

_REMEMBERED = 1000


def refuse_beyond(id: str, record: Record, total: int) -> None:
    """Raises BatchFull for more members than a batch takes."""
    most = record.terms.most
    if total > most:
        raise BatchFull(f"batch {id}: it takes {most:,} members, and this would be more: say most= if it is meant to")


def refuse_deeper(id: str, record: Record, levels: int) -> None:
    """Raises BatchFull for what is further down than a batch goes."""
    deepest = record.terms.deepest
    if levels > deepest:
        raise BatchFull(f"batch {id}: it goes {deepest} levels deep, and this would be deeper: say deepest= if it may")


class Bounds:
    """What members add, held against the bounds of their batches."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counted: dict[str, tuple[int, int]] = {}
        """How many chunks and members a batch had when they were counted."""

    async def refuse(self, place: Place, adds: Sequence[Job]) -> None:
        """Raises BatchFull when this member must not add these."""
        batch = place.batch
        record = read_record((await self._store.get(batch_key(batch))).value)
        if record is None or not adds:
            return
        refuse_deeper(batch, record, place.member.partition("@")[0].count("."))
        # To count the members is to read the size of every chunk: not before their number leaves it open.
        chunks = await self._store.discard(parts_key(batch), ())
        counted, members = self._counted.get(batch, (0, 0))
        if members + (chunks - counted) * CHUNK + len(adds) > record.terms.most:
            members = sum((await sizes_of(self._store, batch)).values())
            if len(self._counted) >= _REMEMBERED:
                self._counted.clear()
            self._counted[batch] = chunks, members
            refuse_beyond(batch, record, members + len(adds))
