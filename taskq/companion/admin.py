"""What an operator may see and do: rows by the sets they are noted in."""

import asyncio
from collections.abc import Sequence

from taskq.broker import QueueStats, Record, Revival
from taskq.companion import moves
from taskq.companion.later import Later
from taskq.companion.row import Row
from taskq.companion.rows import Rows
from taskq.companion.sender import Sender
from taskq.job import JobRef, State

_PAGE = 100
"""Rows looked at at once."""
_OLDEST = 10
"""Waiting jobs of which the one that has waited longest is told."""


class CompanionAdmin:
    """What an operator may see and do."""

    def __init__(self, rows: Rows, later: Later, sender: Sender) -> None:
        self._rows = rows
        self._later = later
        self._sender = sender

    async def stats(self, queues: Sequence[str] = ()) -> list[QueueStats]:
        found = await asyncio.gather(*(self._stats(queue) for queue in queues or await self._rows.queues()))
        return sorted((stats for stats in found if queues or _holds(stats)), key=lambda stats: stats.queue)

    async def lookup(self, ref: JobRef) -> Record | None:
        row, now = await self._rows.get(ref)
        return None if row is None or row.state == "ended" else _record(row, now)

    async def find(self, id: str) -> Record | None:
        found = await asyncio.gather(*(self.lookup(JobRef(queue, id)) for queue in await self._rows.queues()))
        return next((record for record in found if record is not None), None)

    async def list_jobs(self, queue: str, state: State, *, after: str | None, limit: int) -> list[Record]:
        noted = sorted(await self._rows.ids(queue, "dead" if state == "dead" else "live"))
        behind = [one for one in noted if after is None or one > after]
        found: list[Record] = []
        for first in range(0, len(behind), _PAGE):
            refs = [JobRef(queue, one) for one in behind[first : first + _PAGE]]
            records = await asyncio.gather(*map(self.lookup, refs))
            found += [record for record in records if record is not None and record.state == state]
            if len(found) >= limit:
                break
        return found[:limit]

    async def cancel(self, refs: Sequence[JobRef]) -> list[bool]:
        return await asyncio.gather(*map(self._cancel, refs))

    async def revive(self, refs: Sequence[JobRef]) -> list[Revival]:
        return await asyncio.gather(*map(self._revive, refs))

    async def purge(self, refs: Sequence[JobRef]) -> list[bool]:
        return await asyncio.gather(*map(self._purge, refs))

    # Steps

    async def _stats(self, queue: str) -> QueueStats:
        live, leased, dead, later, buried = await asyncio.gather(
            self._rows.ids(queue, "live"),
            self._rows.ids(queue, "leased"),
            self._rows.ids(queue, "dead"),
            self._later.count(queue),
            self._rows.counted(queue),
        )
        waiting = sorted(live - leased)
        looked = await asyncio.gather(*(self._rows.get(JobRef(queue, one)) for one in waiting[:_OLDEST]))
        waits = [now - row.due for row, now in looked if row is not None and row.live]
        return QueueStats(
            queue=queue,
            later=later,
            ready=max(0, len(waiting) - later),
            leased=len(leased & live),
            dead=len(dead),
            oldest=max(0.0, *waits) if waits else 0.0,
            lapsed=max(0, buried - len(dead)),
        )

    async def _cancel(self, ref: JobRef) -> bool:
        def think(row: Row | None, now: float) -> tuple[Row | None, tuple[Row | None, Row | None]]:
            wanted, before = moves.cancelled(row, now)
            return wanted, (wanted, before)

        (row, before), now = await self._rows.change(ref, think)
        if row is None or before is None:
            return False
        if row.state == "new":
            await self._sender.place(row, now, before)
        return True

    async def _revive(self, ref: JobRef) -> Revival:
        def think(row: Row | None, now: float) -> tuple[Row | None, tuple[Row | None, Row | None]]:
            wanted, before = moves.revived(row, now)
            return wanted, (wanted, before)

        (row, before), now = await self._rows.change(ref, think)
        if row is None or before is None:
            return "unknown"
        if row.holds and await self._rows.hold(row, now) is not None:
            await self._rows.change(ref, lambda found, _: moves.restored(found, before))
            return "conflict"
        await self._sender.place(row, now)
        await self._unbury(before)
        return "revived"

    async def _purge(self, ref: JobRef) -> bool:
        row, _ = await self._rows.change(ref, lambda row, _: moves.purged(row))
        if row is None:
            return False
        await self._unbury(row)
        if row.holds:
            await self._rows.free(row)
        return True

    async def _unbury(self, row: Row) -> None:
        await self._rows.count(row.called.queue, -1)
        await self._rows.leave("dead", [row])


def _holds(stats: QueueStats) -> bool:
    return bool(stats.later or stats.ready or stats.leased or stats.dead)


def _record(row: Row, now: float) -> Record:
    return Record(
        job=row.called,
        state=_state(row, now),
        attempt=row.attempt,
        losses=row.losses,
        due=row.until if row.state == "leased" else row.due,
        expires_at=row.expires_at,
        cancelled=row.cancelled,
        error=row.error,
        outcome=row.outcome,
    )


def _state(row: Row, now: float) -> State:
    match row.state:
        case "dead":
            return "dead"
        case "leased" if row.until > now:
            return "leased"
        case _:
            return "later" if row.due > now else "ready"
