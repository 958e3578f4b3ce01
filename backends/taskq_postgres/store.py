"""The store: one function of the schema for each call."""

from collections.abc import Sequence

from taskq.store import Entry
from taskq_postgres.lanes import Connection, Lanes
from taskq_postgres.queries import Queries


class PostgresStore:
    """Atomic because each call is one statement that holds its key's lock."""

    def __init__(self, sql: Queries, lanes: Lanes) -> None:
        self._sql = sql
        self._lanes = lanes

    async def get(self, key: str) -> Entry:
        async def look(connection: Connection) -> Entry:
            ((value, members, now),) = await connection.fetch(self._sql.key, key)
            return Entry(value, frozenset(members), now)

        return await self._lanes.run(look)

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        return bool(await self._lanes.run(lambda connection: connection.fetchval(self._sql.swap, key, old, new, ttl)))

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        arguments = (key, members, ttl, ceiling)
        return bool(await self._lanes.run(lambda connection: connection.fetchval(self._sql.add, *arguments)))

    async def discard(self, key: str, members: Sequence[str]) -> int:
        left: int = await self._lanes.run(lambda connection: connection.fetchval(self._sql.discard, key, members))
        return left
