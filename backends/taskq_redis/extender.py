"""Extending leases, from the worker's loop or another one."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from msgspec import msgpack

from taskq.broker import Extender
from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable
from taskq.job import Lease
from taskq_redis.faults import translated
from taskq_redis.rows import microseconds, receipt_parts
from taskq_redis.tools import Tools
from taskq_redis.wire import Reply

CHUNK = 1000
"""Jobs a script call: a larger one would keep the server from others for more than some milliseconds."""

TOKEN = 16
"""The length of a receipt's random part."""

T = TypeVar("T")

_ANSWERS = {ord("h"): Lease.HELD, ord("l"): Lease.LOST, ord("c"): Lease.CANCELLED}


class RedisExtender:
    """Extends over connections of its own, from the event loop that opened it."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await extend(self._tools, receipts, lease)


@asynccontextmanager
async def extending(tools: Tools) -> AsyncGenerator[Extender]:
    """An extender whose connections end with the context."""
    try:
        yield RedisExtender(tools)
    finally:
        await tools.client.servers.close()


async def extend(tools: Tools, receipts: Sequence[str], lease: float) -> list[Lease]:
    """Extend each, wherever its queue is."""
    answers = [Lease.LOST] * len(receipts)
    parts = await by_queue(tools, receipts)
    lost: list[BrokerError] = []

    async def extend(queue: str, found: Sequence[tuple[int, str, str]]) -> None:
        packed = msgpack.encode([(job, token) for _, token, job in found])
        keys = tools.keys.queue(queue)
        try:
            # A node that hangs must not keep the next call from those that answer until their leases are over.
            async with asyncio.timeout(lease / 3 if len(parts) > 1 else None):
                said = await tools.client.run(tools.scripts.extend, keys, microseconds(lease), packed)
        except (BrokerUnavailable, TimeoutError) as error:
            for at, _, _ in found:
                answers[at] = Lease.UNKNOWN
            lost.append(error if isinstance(error, BrokerUnavailable) else translated(error, tools.client.name))
            return
        for (at, _, _), answer in zip(found, text(said), strict=True):
            answers[at] = _ANSWERS[answer]

    await each([extend(queue, found) for queue, found in parts])
    if lost and len(lost) == len(parts):
        raise lost[0]
    return answers


async def by_queue(tools: Tools, receipts: Sequence[str]) -> list[tuple[str, list[tuple[int, str, str]]]]:
    """Where each receipt stands among them, its token and its id: by queue, in parts for one script call."""
    found: dict[str, list[tuple[int, str, str]]] = {}
    for at, receipt in enumerate(receipts):
        parts = receipt_parts(receipt, TOKEN)
        if parts is not None:
            found.setdefault(parts[1], []).append((at, parts[0], parts[2]))
    if receipts and not found:
        # They are void whatever a server says, but to answer so while none can be reached would be a guess.
        await tools.client.call(b"", b"PING")
    return [
        (queue, items[first : first + CHUNK]) for queue, items in found.items() for first in range(0, len(items), CHUNK)
    ]


async def each(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them answer; the first error is raised when each has ended."""
    if len(calls) == 1:
        return [await calls[0]]
    found: list[T] = []
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer
        found.append(answer)
    return found


def text(reply: Reply) -> bytes:
    """What a script must have answered with a string."""
    if isinstance(reply, bytes):
        return reply
    raise BrokerRejected(f"a script answered {reply!r}")
