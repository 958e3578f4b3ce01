"""Groups: who has a place in one, and who waits for it. No message is about for those who wait.

One key for each group names the holders of its places, another one those who wait. As with unique keys the row is
believed: a named holder whose row has no place gives way to the next, so that no crash strands a place.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

import msgspec
from msgspec import Struct

from taskq.companion import moves
from taskq.companion.row import FOREVER, Row, time_to_live
from taskq.companion.rows import AT_ONCE, PREFIX, Rows
from taskq.job import Job, JobRef

_PAGE = 10
"""Who wait that are looked at at once: most of them do."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[str]).decode


class Given(Struct, frozen=True):
    """What became of the places of a group."""

    fresh: Sequence[Row]
    """Rows that have one now and whose messages are to be sent."""
    unsent: Sequence[Row]
    """Rows that had one before and whose messages somebody else is to send."""
    now: float


class Groups:
    """The groups of all queues."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._store = rows.store

    async def wait(self, row: Row) -> None:
        """Note that this one waits for a place."""
        await self._store.add(_waiting(row.called), [_member(row)], ttl=FOREVER)

    async def give(self, job: Job) -> Given:
        """Give the free places of this job's group to those who have waited longest."""
        key = _places(job)
        while True:
            entry = await self._store.get(key)
            named = [] if entry.value is None else _decode(entry.value)
            holders = [row for row in await self._read(job, named) if row is not None and moves.takes_a_place(row)]
            taken = frozenset(map(_name, holders))
            rows = [*holders, *await self._first(job, job.group_limit - len(holders), taken)]
            wanted = [*map(_name, rows)]
            ttl = max((time_to_live(row, entry.now) for row in rows), default=None)
            if wanted == named or await self._store.swap(
                key, entry.value, _encode(wanted) if wanted else None, ttl=ttl
            ):
                break
        waited = [row for row in rows if row.state == "waiting"]
        changed = await asyncio.gather(*(self._rows.change(row.ref, partial(moves.given, row)) for row in waited))
        await self._forget(job, map(_member, waited))
        fresh = [row for row, _ in changed if row is not None]
        return Given(fresh, [row for row in holders if row.state == "new"], entry.now)

    # Steps

    async def _first(self, job: Job, free: int, taken: frozenset[str]) -> list[Row]:
        """Of those who wait as many as there are free places; who waits no longer is forgotten on the way."""
        found: list[Row] = []
        members = sorted((await self._store.get(_waiting(job))).members) if free > 0 else []
        gone: list[str] = []
        for first in range(0, len(members), _PAGE):
            page = members[first : first + _PAGE]
            rows = await self._read(job, [member.partition(" ")[2] for member in page])
            for member, row in zip(page, rows, strict=True):
                if row is None or row.state not in ("new", "waiting") or _member(row) != member:
                    gone.append(member)
                elif row.state == "waiting" and _name(row) not in taken:
                    found.append(row)
            if len(found) >= free:
                break
        await self._forget(job, gone)
        return found[: max(free, 0)]

    async def _read(self, job: Job, named: Sequence[str]) -> list[Row | None]:
        """The row of each of them, if it is of the life that was named."""
        parts = [name.partition(" ") for name in named]
        found = await asyncio.gather(*(self._rows.get(JobRef(job.queue, name)) for _, _, name in parts))
        return [
            row if row is not None and row.life == life and row.live else None
            for (life, _, _), (row, _) in zip(parts, found, strict=True)
        ]

    async def _forget(self, job: Job, members: Iterable[str]) -> None:
        if found := list(members):
            # They lapse: what is discarded could not wait again.
            await self._store.add(_waiting(job), found, ttl=AT_ONCE)


def _name(row: Row) -> str:
    return f"{row.life} {row.called.id}"


def _member(row: Row) -> str:
    """As it is noted among those who wait, which sort by it."""
    return f"{row.turn or moves.turn(row.due)} {_name(row)}"


def _places(job: Job) -> str:
    return f"{PREFIX}group:{job.queue}:{job.group}"


def _waiting(job: Job) -> str:
    return f"{PREFIX}waiting:{job.queue}:{job.group}"
