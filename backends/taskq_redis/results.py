"""Outcomes, kept beside the jobs of their queue."""

import asyncio

from taskq.errors import BrokerRejected
from taskq.job import JobRef
from taskq_redis.extender import each
from taskq_redis.keys import encoded
from taskq_redis.listener import Listener
from taskq_redis.rows import microseconds
from taskq_redis.tools import Tools
from taskq_redis.waiting import DEAF, LOOK


class RedisResults:
    """Whoever waits for an outcome is told when the job ends."""

    def __init__(self, tools: Tools, listener: Listener) -> None:
        self._tools = tools
        self._listener = listener

    async def outcome(self, ref: JobRef, *, wait: float) -> bytes | None:
        if wait <= 0:
            return await self._look(ref, b"", 0.0)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        bell = self._listener.bell()
        try:
            while True:
                bell.rung = False
                left = until - loop.time()
                found = await self._look(ref, bell.member, max(left, 0.001))
                if found is not None or left <= 0 or self._listener.closed:
                    return found
                await bell.wait(min(left, LOOK if self._listener.hears else DEAF))
        finally:
            self._listener.remove(bell)

    async def _look(self, ref: JobRef, member: bytes, patience: float) -> bytes | None:
        """The outcome, wherever the job was; if there is none yet, all partitions will tell."""
        partitions = self._tools.keys.partitions(ref.queue)
        return next(
            filter(None, await each([self._look_at(partition, ref.id, member, patience) for partition in partitions])),
            None,
        )

    async def _look_at(self, partition: str, id: str, member: bytes, patience: float) -> bytes | None:
        keys, script = self._tools.keys.queue(partition), self._tools.scripts.outcome
        found = await self._tools.client.run(script, keys, encoded(id), member, microseconds(patience))
        if found is None or isinstance(found, bytes):
            return found
        raise BrokerRejected(f"a script answered {found!r}")
