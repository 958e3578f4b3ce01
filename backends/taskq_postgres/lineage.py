"""An old primary that returns beside its successor is known by its timeline, and left alone.

A standby that is promoted begins a new timeline. Where a URL names several hosts, or a name has moved back, a
connection may lead to the lost primary again, which takes writes: its jobs have run already, and what it takes is lost.
"""

from collections.abc import Awaitable, Callable

import asyncpg

from taskq_postgres.lanes import Connection


class Lineage:
    """Opens connections, to no older timeline than one that was seen."""

    def __init__(self, opener: Callable[[], Awaitable[Connection]], timeline: str) -> None:
        self._opener = opener
        self._timeline = timeline
        self._last: dict[int, str] = {}

    async def open(self) -> Connection:
        """Raises ConnectionError for a server that was overtaken; one that does not tell its timeline is believed."""
        connection = await self._opener()
        try:
            await self._check(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _check(self, connection: Connection) -> None:
        try:
            (row,) = await connection.fetch(self._timeline)
        except asyncpg.PostgresError:
            return
        data: int = row["data"]
        timeline: str = row["timeline"]
        last = self._last.get(data, timeline)
        # Hexadecimal digits of one length have the order of their numbers.
        if timeline < last:
            raise ConnectionError(
                f"it is on timeline {int(timeline, 16)}, and of the same data this process has seen {int(last, 16)}: "
                "fence the old primary; if it was restored on purpose, start this process again"
            )
        self._last[data] = timeline
