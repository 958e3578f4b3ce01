"""The four verbs, and what they promise."""

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import TypeVar

from anyio.to_thread import run_sync

from examples.folder.shelf import Shelf
from taskq.broker import Traits
from taskq.errors import BrokerUnavailable, PayloadTooLarge
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement

T = TypeVar("T")

_TICK = 0.02
"""Seconds between two looks of a fetch that waits."""

TRAITS = Traits(
    durability="disk",
    idempotent=True,
    unique=False,
    ordered=True,
    groups=False,
    exclusive=True,
    fenced=True,
    exact_attempts=True,
    max_delay=inf,
    max_size=1 << 20,
    max_batch=1000,
)


class FolderBroker:
    """Every verb is one step of the shelf, in a thread."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._closed = False

    @property
    def traits(self) -> Traits:
        return TRAITS

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        fit = [job for job in jobs if len(job.body) <= TRAITS.max_size]
        added = iter(await self._step(lambda: self._shelf.add(fit)))
        return [next(added) if len(job.body) <= TRAITS.max_size else _refused(job) for job in jobs]

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            taken = await self._step(lambda: self._shelf.take(list(queues), limit, lease))
            left = until - loop.time()
            if taken or left <= 0:
                return taken
            await asyncio.sleep(min(_TICK, left))

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return await self._step(lambda: self._shelf.settle(list(settlements)))

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await self._step(lambda: self._shelf.extend(list(receipts), lease))

    def close(self) -> None:
        """From now on every verb says so."""
        self._closed = True

    async def _step(self, step: Callable[[], T]) -> T:
        if self._closed:
            raise BrokerUnavailable("this folder is closed")
        try:
            return await run_sync(step)
        except OSError as error:
            raise BrokerUnavailable(f"the folder: {error}") from error


def _refused(job: Job) -> Enqueued:
    error = PayloadTooLarge(f"job {job.id} has {len(job.body)} bytes; at most {TRAITS.max_size} are taken")
    return Enqueued(job.id, added=False, error=error)
