"""The hints part: one bounded stream a listener; what a slow one cannot hold it does not get."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from taskq.broker import Hint

_HELD = 1000


class MemoryHints:
    """Messages to the listeners of this backend."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        """Raises when the backend is closed."""
        self._listeners: dict[MemoryObjectSendStream[Hint], frozenset[str]] = {}

    async def publish(self, channel: str, data: str) -> None:
        self._check()
        for stream, channels in self._listeners.items():
            if channel in channels:
                try:
                    stream.send_nowait(Hint(channel, data))
                except anyio.WouldBlock:
                    continue

    @asynccontextmanager
    async def subscribe(self, channels: Sequence[str]) -> AsyncGenerator[MemoryObjectReceiveStream[Hint]]:
        self._check()
        send, receive = anyio.create_memory_object_stream[Hint](_HELD)
        self._listeners[send] = frozenset(channels)
        try:
            with receive:
                yield receive
        finally:
            self._listeners.pop(send, None)
            send.close()

    def close(self) -> None:
        """End every listening."""
        for stream in self._listeners:
            stream.close()
        self._listeners.clear()
