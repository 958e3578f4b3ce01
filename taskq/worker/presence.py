"""Who works here: a worker tells in the Store how it is, and obeys what operators ask of it."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec

from taskq.broker import Backend, Hints
from taskq.errors import BrokerError, BrokerUnavailable
from taskq.store import Store
from taskq.worker.memory import memory_of
from taskq.worker.register import (
    LAPSE,
    LOOK,
    ORDER,
    PATIENCE,
    PERIOD,
    REGISTER,
    SHOWN,
    TOLD,
    Entry,
    Order,
    Places,
    RunningJob,
    entry_key,
    order_key,
)
from taskq.worker.run import job_fields
from taskq.worker.signals import log_running
from taskq.worker.worker import Worker

_log = logging.getLogger("taskq.worker")


@asynccontextmanager
async def present(worker: Worker, backend: Backend) -> AsyncGenerator[None]:
    """Let operators see and reach a worker while the context is open; without a Store they cannot.

    Not one that ends by itself, nor under a virtual clock, where a tick every half minute would be all there is.
    """
    options = worker.options
    if backend.store is None or options.until != "asked" or not options.threads:
        yield
        return
    telling = asyncio.get_running_loop().create_task(Presence(worker, backend.store, backend.hints).run())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait({telling})


class Presence:
    """One worker's entry, and its ear for orders."""

    def __init__(self, worker: Worker, store: Store, hints: Hints | None) -> None:
        self._worker = worker
        self._store = store
        self._hints = hints
        self._id = worker.id
        from importlib.metadata import version  # here: it takes a tenth of the time that importing taskq takes

        self._version = version("taskq-async")
        self._began = time.monotonic()
        self._written: bytes | None = None
        self._askers: set[str] = set()
        self._hears = anyio.Event()
        self._now = anyio.Event()

    async def run(self) -> None:
        """Tell and listen until cancelled; then be gone from the list."""
        try:
            async with anyio.create_task_group() as group:
                if self._hints is not None:
                    group.start_soon(self._listen, self._hints)
                    # Who finds it in the register waits for its answer.
                    with anyio.move_on_after(PATIENCE):
                        await self._hears.wait()
                while True:
                    self._now = anyio.Event()
                    with suppress(BrokerError):
                        await self._tell()
                        await self._look_for_order()
                    with anyio.move_on_after(PERIOD):
                        await self._now.wait()
        finally:
            with anyio.move_on_after(1, shield=True), suppress(BrokerError):
                await self._store.discard(REGISTER, [self._id])
                await self._store.swap(entry_key(self._id), self._written, None)

    async def _tell(self) -> None:
        askers, self._askers = self._askers, set()
        await self._write()
        if self._hints is not None:
            for asker in askers:
                await self._hints.publish(TOLD, f"{asker} {self._id}")

    async def _write(self) -> None:
        new = msgspec.json.encode(self._entry())
        if not await self._store.swap(entry_key(self._id), self._written, new, ttl=LAPSE):
            # It lapsed, or a write went through whose answer was lost.
            found = (await self._store.get(entry_key(self._id))).value
            await self._store.swap(entry_key(self._id), found, new, ttl=LAPSE)
        self._written = new
        await self._store.add(REGISTER, [self._id], ttl=LAPSE)

    def _entry(self) -> Entry:
        sight, now = self._worker.look(), asyncio.get_running_loop().time()
        runs = sorted(
            (run for run in self._worker.running if run.started is not None), key=lambda run: run.started or 0
        )
        return Entry(
            id=self._id,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=self._version,
            build=self._worker.options.build,
            state="draining" if sight.draining else "quiet" if sight.quiet else "working",
            queues=self._worker.queues,
            tasks=self._worker.tasks,
            slots=sight.slots,
            withheld=sight.withheld,
            running=sight.running,
            pools=[
                Places(queues=pool.lineup.queues, slots=pool.slots.size, running=len(pool.slots.running))
                for pool in self._worker.pools
            ],
            jobs=[RunningJob(**job_fields(run), seconds=now - (run.started or now)) for run in runs[:SHOWN]],
            lag=sight.lag,
            memory=memory_of("self"),
            up=time.monotonic() - self._began,
        )

    def _obey(self, order: Order) -> None:
        match order:
            case "quiet" | "resume":
                self._worker.quiet(order == "quiet")
            case "drain":
                self._worker.drain()
            case "dump":
                log_running(self._worker)

    async def _look_for_order(self) -> None:
        key = order_key(self._id)
        value = (await self._store.get(key)).value
        if value is not None and await self._store.swap(key, value, None):
            with suppress(msgspec.MsgspecError):
                order = msgspec.json.decode(value, type=Order)
                _log.info("asked by an operator: %s", order)
                self._obey(order)
                self._now.set()

    async def _listen(self, hints: Hints) -> None:
        while True:
            try:
                async with hints.subscribe([LOOK, ORDER]) as heard:
                    self._hears.set()
                    async for hint in heard:
                        if hint.channel == LOOK:
                            self._askers.add(hint.data)
                        if hint.channel == LOOK or hint.data == self._id:
                            self._now.set()
            except BrokerUnavailable:
                await anyio.sleep(1)
