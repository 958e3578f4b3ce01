"""Who works here: every worker tells in the Store how it is, and obeys what operators ask of it.

A worker writes itself down now and then, and at once when somebody looks. It is gone from the list when it ends, or,
killed, when what it wrote lapses.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal, get_args

import anyio
import msgspec
from msgspec import Struct

from taskq.broker import Backend, Hints
from taskq.errors import BrokerError, BrokerUnavailable
from taskq.store import Store
from taskq.worker.memory import memory_of
from taskq.worker.runner import job_fields
from taskq.worker.signals import log_running
from taskq.worker.worker import Worker

PERIOD = 30.0
"""Seconds between two entries that nobody asked for: two commands, so that an idle worker stays near one a second."""
LAPSE = 3 * PERIOD
LOOK, ORDER = "taskq:look", "taskq:order"
"""Channels of hints: somebody wants to see the workers; the worker of this id is to look for an order."""
REGISTER = "taskq:workers"
SHOWN = 100
"""Running jobs that an entry names at most."""

Order = Literal["quiet", "resume", "drain", "dump"]
ORDERS: Sequence[Order] = get_args(Order)

_log = logging.getLogger("taskq.worker")


class RunningJob(Struct, frozen=True, kw_only=True):
    """A job in a worker's hands."""

    id: str
    task: str
    queue: str
    attempt: int
    seconds: float
    """For how long it has run."""


class Places(Struct, frozen=True, kw_only=True):
    """A pool's slots, for jobs of these queues."""

    queues: Sequence[str]
    slots: int
    running: int


class Entry(Struct, frozen=True, kw_only=True):
    """A worker, as it told itself."""

    id: str
    host: str
    pid: int
    version: str
    """Of taskq."""
    build: str | None = None
    """What its code calls itself."""
    state: Literal["working", "quiet", "draining"]
    queues: Sequence[str]
    tasks: Mapping[str, int] | None = None
    """Those it knows, with their versions."""
    slots: int
    running: int
    pools: Sequence[Places] = ()
    jobs: Sequence[RunningJob]
    """The longest-running first, a hundred at most."""
    lag: float
    """Seconds the event loop last took to answer."""
    memory: int
    """Bytes of resident memory; 0 where the system does not tell."""
    up: float
    """Seconds since it began."""


def own_id() -> str:
    """A name for this worker that no other has, and that tells an operator where to look."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


async def workers(store: Store, hints: Hints | None) -> Sequence[Entry]:
    """Every worker, by its id; what it told is as old as ``PERIOD`` unless hints reach it."""
    if hints is not None:
        await hints.publish(LOOK, "")
        # Those who heard have told when this is over; nobody says so.
        await anyio.sleep(0.2)
    found: list[Entry] = []
    for name in sorted((await store.get(REGISTER)).members):
        value = (await store.get(_key(name))).value
        if value is not None:
            with suppress(msgspec.MsgspecError):
                found.append(msgspec.json.decode(value, type=Entry))
    return found


async def ask(store: Store, hints: Hints | None, worker: str, order: Order) -> bool:
    """Leave an order for a worker; False when there is none of this id. It obeys at once, or within ``PERIOD``."""
    if (await store.get(_key(worker))).value is None:
        return False
    key = _order_key(worker)
    while not await store.swap(key, (await store.get(key)).value, msgspec.json.encode(order), ttl=LAPSE):
        pass
    if hints is not None:
        await hints.publish(ORDER, worker)
    return True


def _key(worker: str) -> str:
    return f"taskq:worker:{worker}"


def _order_key(worker: str) -> str:
    return f"taskq:order:{worker}"


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
        self._id = own_id()
        from importlib.metadata import version  # here: it takes a tenth of the time that importing taskq takes

        self._version = version("taskq-async")
        self._began = time.monotonic()
        self._written: bytes | None = None
        self._now = anyio.Event()

    async def run(self) -> None:
        """Tell and listen until cancelled; then be gone from the list."""
        try:
            async with anyio.create_task_group() as group:
                if self._hints is not None:
                    group.start_soon(self._listen, self._hints)
                while True:
                    self._now = anyio.Event()
                    with suppress(BrokerError):
                        await self._write()
                        await self._look_for_order()
                    with anyio.move_on_after(PERIOD):
                        await self._now.wait()
        finally:
            with anyio.move_on_after(1, shield=True), suppress(BrokerError):
                await self._store.discard(REGISTER, [self._id])
                await self._store.swap(_key(self._id), self._written, None)

    async def _write(self) -> None:
        new = msgspec.json.encode(self._entry())
        if not await self._store.swap(_key(self._id), self._written, new, ttl=LAPSE):
            # It lapsed, or a write went through whose answer was lost.
            found = (await self._store.get(_key(self._id))).value
            await self._store.swap(_key(self._id), found, new, ttl=LAPSE)
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
        key = _order_key(self._id)
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
                    async for hint in heard:
                        if hint.channel == LOOK or hint.data == self._id:
                            self._now.set()
            except BrokerUnavailable:
                await anyio.sleep(1)
