"""The reference backend: every part of the contract, in this process, for tests and for work that may be lost.

``ranks`` → ``row`` → ``groups`` → ``jobs`` hold the jobs and know no clock; ``broker`` adds the event loop; the other
modules are one part of a :class:`~taskq.broker.Backend` each.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from taskq.broker import Backend, Extender, Traits
from taskq.errors import ConfigError
from taskq.job import Settlement
from taskq.memory.admin import MemoryAdmin
from taskq.memory.broker import MemoryBroker
from taskq.memory.hints import MemoryHints
from taskq.memory.jobs import Jobs
from taskq.memory.results import MemoryResults
from taskq.memory.store import MemoryStore
from taskq.memory.transactions import MemoryTransactions
from taskq.store import Store

__all__ = ["connect"]


@asynccontextmanager
async def connect(url: str, *, max_size: int = 1 << 20, dedup_window: float = 0.0) -> AsyncGenerator[Backend]:
    """A backend of its own, empty, and gone when the context is left.

    Its clock is the running loop's, so under a loop with a virtual clock its time is virtual too.
    """
    if url.rstrip("/") != "memory:":
        raise ConfigError(f"{url!r} names nothing a memory backend could use: write memory://")
    loop = asyncio.get_running_loop()
    epoch = time.time() - loop.time()
    jobs = Jobs(epoch=epoch, max_size=max_size, dedup_window=dedup_window)
    traits = Traits(
        durability="process",
        idempotent=True,
        dedup_window=dedup_window,
        unique=True,
        ordered=True,
        groups=True,
        fair=True,
        exclusive=True,
        fenced=True,
        exact_attempts=True,
        max_size=max_size,
        max_batch=10_000,
    )
    broker = MemoryBroker(jobs, traits, loop)
    hints = MemoryHints(broker.check)
    store = MemoryStore(loop, epoch, broker.check)

    @asynccontextmanager
    async def extender() -> AsyncGenerator[Extender]:
        yield broker

    @asynccontextmanager
    async def open_store() -> AsyncGenerator[Store]:
        yield store

    async def discard_and_settle(
        key: str, members: Sequence[str], settlements: Sequence[Settlement]
    ) -> Sequence[bool] | None:
        # Nothing in here waits.
        return await broker.settle(settlements) if await store.discard(key, members) else None

    try:
        yield Backend(
            broker=broker,
            extender=extender,
            results=MemoryResults(broker),
            hints=hints,
            store=store,
            open_store=open_store,
            discard_and_settle=discard_and_settle,
            transactions=MemoryTransactions(broker),
            admin=MemoryAdmin(broker),
            rouse=broker.rouse,
        )
    finally:
        broker.close()
        hints.close()
