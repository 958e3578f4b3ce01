"""What an operator may see and do. Looking changes nothing."""

from collections.abc import Sequence

from taskq.broker import QueueStats, Record, Revival
from taskq.job import JobRef, State
from taskq_postgres.lanes import Connection, Lanes
from taskq_postgres.queries import Queries
from taskq_postgres.rows import record_of
from taskq_postgres.watcher import Watcher


class PostgresAdmin:
    """The admin part."""

    def __init__(self, sql: Queries, lanes: Lanes, watcher: Watcher) -> None:
        self._sql = sql
        self._lanes = lanes
        self._watcher = watcher

    async def stats(self, queues: Sequence[str] = ()) -> list[QueueStats]:
        """Costs a look at each job of these queues."""
        named = list(queues) or None
        rows = await self._lanes.run(lambda connection: connection.fetch(self._sql.stats, named))
        found = {row["queue"]: QueueStats(**dict(row)) for row in rows}
        wanted = set(queues) or {queue for queue, stats in found.items() if _holds(stats)}
        return [found.get(queue) or _empty(queue) for queue in sorted(wanted)]

    async def lookup(self, ref: JobRef) -> Record | None:
        row = await self._lanes.run(lambda connection: connection.fetchrow(self._sql.record, ref.queue, ref.id))
        return None if row is None else record_of(row)

    async def find(self, id: str) -> Record | None:
        row = await self._lanes.run(lambda connection: connection.fetchrow(self._sql.find, id))
        return None if row is None else record_of(row)

    async def list_jobs(self, queue: str, state: State, *, after: str | None, limit: int) -> list[Record]:
        """Costs a look at each job behind ``after``, when few are in the state asked for."""
        arguments = (queue, after or "", state, limit)
        rows = await self._lanes.run(lambda connection: connection.fetch(self._sql.list_jobs, *arguments))
        return [record_of(row) for row in rows]

    async def cancel(self, refs: Sequence[JobRef]) -> list[bool]:
        rows = await self._lanes.run(lambda connection: connection.fetch(self._sql.cancel, *_arrays(refs)))
        self._watcher.wake({ref.queue for ref in refs})
        found = {place for (place,) in rows}
        return [place in found for place in range(1, len(refs) + 1)]

    async def revive(self, refs: Sequence[JobRef]) -> list[Revival]:
        rows = await self._lanes.run(lambda connection: connection.fetch(self._sql.revive, *_arrays(refs)))
        self._watcher.wake({ref.queue for ref in refs})
        found: dict[int, Revival] = {place: "revived" if revived else "conflict" for place, revived in rows}
        return [found.get(place, "unknown") for place in range(1, len(refs) + 1)]

    async def purge(self, refs: Sequence[JobRef]) -> list[bool]:
        async def remove(connection: Connection) -> set[tuple[str, str]]:
            rows = await connection.fetch(self._sql.purge, *_arrays(refs))
            return {(row["queue"], row["id"]) for row in rows}

        removed = await self._lanes.run(remove)
        answers: list[bool] = []
        for ref in refs:
            answers.append((ref.queue, ref.id) in removed)
            removed.discard((ref.queue, ref.id))
        return answers


def _arrays(refs: Sequence[JobRef]) -> tuple[list[str], list[str]]:
    return [ref.queue for ref in refs], [ref.id for ref in refs]


def _empty(queue: str) -> QueueStats:
    return QueueStats(queue=queue, later=0, ready=0, leased=0, dead=0, oldest=0.0)


def _holds(stats: QueueStats) -> bool:
    return bool(stats.later or stats.ready or stats.leased or stats.dead)
