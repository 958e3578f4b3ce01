"""Hints: messages of the server itself, which keeps none of them."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from taskq.broker import Hint
from taskq_redis.client import Client
from taskq_redis.keys import Keys, encoded
from taskq_redis.listener import Listener


class RedisHints:
    """Messages to the listeners of every process on these servers."""

    def __init__(self, client: Client, keys: Keys, listener: Listener) -> None:
        self._client = client
        self._keys = keys
        self._listener = listener

    async def publish(self, channel: str, data: str) -> None:
        name = self._keys.channel(channel)
        await self._client.call(name, b"PUBLISH", name, encoded(data))

    @asynccontextmanager
    async def subscribe(self, channels: Sequence[str]) -> AsyncGenerator[AsyncIterator[Hint]]:
        subscription = self._listener.subscribe(channels)
        try:
            await self._listener.confirmed(subscription)
            yield aiter(subscription)
        finally:
            self._listener.unsubscribe(subscription)
