"""A backend of somebody else's that promises less: the memory one, with a trait or a part taken away.

``weaker://unique`` keeps no unique keys, ``weaker://results`` has no Results, ``weaker://max_batch=10`` takes ten jobs
at once; several are joined by commas.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from taskq import memory
from taskq.broker import Backend, Broker, Traits
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement


class Weaker:
    """The same broker with other traits."""

    def __init__(self, broker: Broker, traits: Traits) -> None:
        self._broker = broker
        self.traits = traits
        self.calls: list[int] = []
        """How many jobs each call of ``enqueue`` brought."""

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        self.calls.append(len(jobs))
        return await self._broker.enqueue(jobs)

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        return await self._broker.fetch(queues, limit, lease=lease, wait=wait)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return await self._broker.settle(settlements)

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await self._broker.extend(receipts, lease)


@asynccontextmanager
async def connect(url: str) -> AsyncGenerator[Backend]:
    """What is taken away stands where other URLs have the host."""
    traits: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    async with memory.connect("memory://") as backend:
        for taken in url.removeprefix("weaker://").split(","):
            name, _, number = taken.partition("=")
            if number:
                traits[name] = int(number)
            elif name in Backend.__struct_fields__:
                parts[name] = None
            elif name in ("at_least_once", "at_most_once"):
                traits["delivery"] = backend.broker.traits.delivery - {name}
            else:
                traits[name] = False
        weaker = Weaker(backend.broker, msgspec.structs.replace(backend.broker.traits, **traits))
        yield msgspec.structs.replace(backend, broker=weaker, **parts)
