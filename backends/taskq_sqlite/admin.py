"""What an operator may see and do. Looking uses the reading lane and changes nothing."""

import sqlite3
from collections.abc import Mapping, Sequence
from time import time

from taskq.broker import QueueStats, Record, Revival
from taskq.job import JobRef, State
from taskq_sqlite.enqueue import Holder
from taskq_sqlite.groups import show
from taskq_sqlite.lane import Lane
from taskq_sqlite.queries import Queries
from taskq_sqlite.rows import Row, Value, read, record_of
from taskq_sqlite.watcher import Watcher


class SqliteAdmin:
    """The admin part."""

    def __init__(self, sql: Queries, lane: Lane, reader: Lane, watcher: Watcher) -> None:
        self._sql = sql
        self._lane = lane
        self._reader = reader
        self._watcher = watcher

    async def stats(self, queues: Sequence[str] = ()) -> list[QueueStats]:
        now = time()

        def step(cursor: sqlite3.Cursor) -> list[tuple[str, int, int, int, int, float | None, int]]:
            return cursor.execute(self._sql.stats, {"now": now}).fetchall()

        found = {row[0]: row for row in await self._reader.run(step)}
        wanted = sorted(set(queues) or (queue for queue, row in found.items() if any(row[1:5])))
        return [_stats(found.get(queue, (queue, 0, 0, 0, 0, None, 0)), now) for queue in wanted]

    async def lookup(self, ref: JobRef) -> Record | None:
        found = await self._reader.run(lambda cursor: _record(cursor, self._sql, ref.queue, ref.id))
        return next(iter(found), None)

    async def find(self, id: str) -> Record | None:
        def step(cursor: sqlite3.Cursor) -> Record | None:
            for (queue,) in cursor.execute(self._sql.queues).fetchall():
                for record in _record(cursor, self._sql, queue, id):
                    return record
            return None

        return await self._reader.run(step)

    async def list_jobs(self, queue: str, state: State, *, after: str | None, limit: int) -> list[Record]:
        """Costs a look at each job behind ``after`` that waits, when few of those are in the state asked for."""
        statements = {"dead": self._sql.list_dead, "leased": self._sql.list_leased}
        now = time()
        named: Mapping[str, Value] = {
            "queue": queue,
            "after": after or "",
            "limit": limit,
            "now": now,
            "due": state == "ready",
        }

        def step(cursor: sqlite3.Cursor) -> list[Record]:
            rows = cursor.execute(statements.get(state, self._sql.list_waiting), named)
            return [record_of(Row(*row), now) for row in rows]

        return await self._reader.run(step)

    async def cancel(self, refs: Sequence[JobRef]) -> list[bool]:
        def step(cursor: sqlite3.Cursor) -> list[bool]:
            now = time()
            answers: list[bool] = []
            for ref in refs:
                named = {"queue": ref.queue, "id": ref.id, "now": now}
                found = cursor.execute(self._sql.cancel, named).fetchall()
                if found and found[0][0] is not None:
                    show(cursor, self._sql, (ref.queue, found[0][0]))
                answers.append(bool(found))
            return answers

        answers = await self._lane.run(step)
        self._watcher.wake({ref.queue for ref in refs})
        return answers

    async def revive(self, refs: Sequence[JobRef]) -> list[Revival]:
        def step(cursor: sqlite3.Cursor) -> list[Revival]:
            return [_revive(cursor, self._sql, ref, time()) for ref in refs]

        answers = await self._lane.run(step)
        self._watcher.wake({ref.queue for ref in refs})
        return answers

    async def purge(self, refs: Sequence[JobRef]) -> list[bool]:
        def step(cursor: sqlite3.Cursor) -> list[bool]:
            now = time()
            named = [{"queue": ref.queue, "id": ref.id, "now": now} for ref in refs]
            return [bool(cursor.execute(self._sql.purge, names).fetchall()) for names in named]

        return await self._lane.run(step)


def _stats(row: tuple[str, int, int, int, int, float | None, int], now: float) -> QueueStats:
    queue, later, ready, leased, dead, due, lapsed = row
    oldest = 0.0 if due is None else max(0.0, now - due)
    return QueueStats(queue=queue, later=later, ready=ready, leased=leased, dead=dead, oldest=oldest, lapsed=lapsed)


def _record(cursor: sqlite3.Cursor, sql: Queries, queue: str, id: str) -> list[Record]:
    now = time()
    found = cursor.execute(sql.record, {"queue": queue, "id": id, "now": now}).fetchall()
    return [record_of(Row(*row), now) for row in found]


def _revive(cursor: sqlite3.Cursor, sql: Queries, ref: JobRef, now: float) -> Revival:
    found = cursor.execute(sql.record, {"queue": ref.queue, "id": ref.id, "now": now}).fetchall()
    if not found or (row := Row(*found[0])).state != "dead":
        return "unknown"
    keyed = False
    if row.unique is not None:
        own = Holder(*cursor.execute(sql.holder_of_id, (ref.queue, ref.id)).fetchone())
        keyed = not own.has_lost_key(now)
        for values in cursor.execute(sql.holder_of_key, (ref.queue, row.unique)).fetchall() if keyed else ():
            holder = Holder(*values)
            if holder.seq == row.seq:
                continue
            if not holder.has_lapsed(now) and not holder.has_lost_key(now):
                return "conflict"
            cursor.execute(sql.release_key, (holder.seq,))
    expires_in = read(row.rest).expires_in
    expires_at = None if expires_in is None else now + expires_in
    cursor.execute(sql.revive, {"seq": row.seq, "now": now, "expires_at": expires_at, "keyed": keyed})
    if row.group is not None:
        show(cursor, sql, (ref.queue, row.group))
    return "revived"
