"""Who of a batch has failed, how those ended who did not return, and whom their reviving has taken back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf

from msgspec.json import decode

from taskq.flow.marks import has_died_after
from taskq.flow.places import ref_of
from taskq.flow.record import (
    EXCUSABLE,
    PENDING,
    REVIVABLE,
    Record,
    batch_key,
    ended_key,
    failed_key,
    first_key,
    hold,
    read_record,
)
from taskq.report import Death, End
from taskq.sequel import Leave
from taskq.store import Store

_REMEMBERED = 1000
_CHEAPER = 20
"""Names of failed members that are read at the price of looking for one member's mark."""


class Failures:
    """Of the batches of one backend."""

    def __init__(self, store: Store, call_back: Callable[[str, Record, str, bytes], Awaitable[None]]) -> None:
        self._store = store
        self._call_back = call_back
        self._clean: dict[str, float] = {}
        """Batches of which nobody counted as failed at this moment, by the backend's clock."""

    async def add(self, leave: Leave) -> None:
        """A member has not returned; whoever is the first to fail is told of."""
        batch, member = leave.place.batch, leave.place.member
        end = decode(leave.death, type=Death).end
        await self._tell_apart(batch, member, end)
        if await self._is_excused(batch, end):
            # It may have failed before it was revived.
            await self._store.discard(failed_key(batch), [member])
            return
        await hold(self._store, failed_key(batch), [member])
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
            await hold(self._store, ended_key(id, end), [member])
        await asyncio.gather(
            *(self._store.discard(ended_key(id, other), [member]) for other in REVIVABLE if other != end)
        )

    async def _is_excused(self, id: str, end: End) -> bool:
        if end not in EXCUSABLE:
            return False
        record = read_record((await self._store.get(batch_key(id))).value)
        return record is not None and end in record.terms.excuses

    async def take_back(self, leaves: Sequence[Leave], batches: Iterable[str], due: float, fetched: float) -> None:
        """One that had failed, was revived and has returned has failed no more.

        Who was revived is due from then on, so that what was due before anybody had failed needs no call: one a batch,
        if its members were all there.
        """
        if not any(leave.succeeded for leave in leaves):
            return
        asked = [batch for batch in batches if due >= self._clean.get(batch, 0.0)]
        if not asked:
            return
        numbers = await asyncio.gather(*(self._store.discard(failed_key(batch), ()) for batch in asked))
        failed = dict(zip(asked, numbers, strict=True))
        await asyncio.gather(*(self._revived(batch, leaves, number) for batch, number in failed.items() if number))
        if len(self._clean) > _REMEMBERED:
            self._clean.clear()
        if fetched < inf:
            self._clean.update({batch: fetched for batch, number in failed.items() if not number})

    async def _revived(self, id: str, leaves: Sequence[Leave], number: int) -> None:
        """Who has returned has not failed, unless a run that did overtook it while it stood still."""
        returned = [leave for leave in leaves if leave.succeeded and leave.place.batch == id]
        if number <= _CHEAPER * len(returned):
            failed = (await self._store.get(failed_key(id))).members
            returned = [leave for leave in returned if leave.place.member in failed]
        overtaken = await asyncio.gather(*(self._was_overtaken(leave) for leave in returned))
        names = [leave.place.member for leave, late in zip(returned, overtaken, strict=True) if not late]
        if names:
            # Before, so that who dies between them finds them failed once more.
            await asyncio.gather(*(self._store.discard(ended_key(id, end), names) for end in REVIVABLE))
            await self._store.discard(failed_key(id), names)

    async def _was_overtaken(self, leave: Leave) -> bool:
        place = leave.place
        return leave.fence > 0 and await has_died_after(self._store, ref_of(place.batch, place.member), leave.fence)
