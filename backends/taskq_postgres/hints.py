"""Hints: messages by NOTIFY. Many that come together go in one statement."""

from asyncio import Queue
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from taskq.broker import Hint
from taskq.errors import BrokerUnavailable
from taskq_postgres.faults import translating
from taskq_postgres.watcher import Watcher


class PostgresHints:
    """Messages to the listeners of every process; one of more than 7,900 bytes is lost."""

    def __init__(self, shown: str, watcher: Watcher) -> None:
        self._shown = shown
        self._watcher = watcher

    async def publish(self, channel: str, data: str) -> None:
        if self._watcher.closed:
            raise BrokerUnavailable(f"{self._shown}: this backend is closed")
        with translating(self._shown):
            self._watcher.hint(Hint(channel, data))

    @asynccontextmanager
    async def subscribe(self, channels: Sequence[str]) -> AsyncGenerator[AsyncIterator[Hint]]:
        with self._watcher.listening(channels) as hints:
            yield _hints(hints)


async def _hints(hints: "Queue[Hint | None]") -> AsyncIterator[Hint]:
    while (hint := await hints.get()) is not None:
        yield hint
