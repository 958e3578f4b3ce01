"""Hints: a small table that every process's watcher reads while somebody listens."""

import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import time

from taskq.broker import Hint
from taskq_sqlite.lane import Lane
from taskq_sqlite.queries import Queries
from taskq_sqlite.watcher import Subscription, Watcher

# Every watcher looks some hundred times in these seconds; a process that was stopped for longer has lost its hints.
_KEPT = 5.0


class SqliteHints:
    """Messages to the listeners of every process that has the file open."""

    def __init__(self, sql: Queries, lane: Lane, reader: Lane, watcher: Watcher) -> None:
        self._sql = sql
        self._lane = lane
        self._reader = reader
        self._watcher = watcher

    async def publish(self, channel: str, data: str) -> None:
        def step(cursor: sqlite3.Cursor) -> None:
            cursor.execute(self._sql.publish, (channel, data, time() + _KEPT))

        await self._lane.run(step)
        self._watcher.look()

    @asynccontextmanager
    async def subscribe(self, channels: Sequence[str]) -> AsyncGenerator[AsyncIterator[Hint]]:
        def step(cursor: sqlite3.Cursor) -> int:
            last: int = cursor.execute(self._sql.last_hint).fetchone()[0]
            return last

        last = await self._reader.run(step)
        with self._watcher.listening(channels, last) as subscription:
            yield _hints(subscription)


async def _hints(subscription: Subscription) -> AsyncIterator[Hint]:
    while (hint := await subscription.hints.get()) is not None:
        yield hint
