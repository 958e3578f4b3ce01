"""What workers tell of themselves in the Store, and what operators leave there for them.

A worker writes itself down now and then, and at once when somebody looks. It is gone from the list when it ends, or,
killed, when what it wrote lapses.
"""

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Literal, get_args

import anyio
import anyio.lowlevel
import msgspec
from msgspec import Struct

from taskq.broker import Hints
from taskq.store import Store

PERIOD = 30.0
"""Seconds between two entries that nobody asked for: two commands, so that an idle worker stays near one a second."""
LAPSE = 3 * PERIOD
LOOK, ORDER, TOLD = "taskq:look", "taskq:order", "taskq:told"
"""Channels of hints: somebody of this name wants to see the workers; the worker of this id is to look for an order; to
whom of this name that worker has told how it is."""
PATIENCE = 0.5
"""Seconds for which a worker is waited for that does not tell: it was killed, or is cut off."""
REGISTER = "taskq:workers"
SHOWN = 100
"""Running jobs that an entry names at most."""

Order = Literal["quiet", "resume", "drain", "dump"]
ORDERS: Sequence[Order] = get_args(Order)


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
    withheld: int = 0
    """Slots it does not use for now, as its event loop lags."""
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
        await _let_them_tell(store, hints)
    return await entries(store)


async def _let_them_tell(store: Store, hints: Hints) -> None:
    """Return when all workers there are have told how they are."""
    name = secrets.token_hex(6)
    async with hints.subscribe([TOLD]) as told:
        missing = set((await store.get(REGISTER)).members)
        await hints.publish(LOOK, name)
        with anyio.move_on_after(PATIENCE):
            while missing:
                asker, _, worker = (await anext(told)).data.partition(" ")
                if asker == name:
                    missing.discard(worker)
    # A caller that asks again and again must not freeze the loop.
    await anyio.lowlevel.checkpoint()


async def entries(store: Store) -> Sequence[Entry]:
    """What is written down now, also of workers that died a moment ago."""
    found: list[Entry] = []
    for name in sorted((await store.get(REGISTER)).members):
        value = (await store.get(entry_key(name))).value
        if value is not None:
            with suppress(msgspec.MsgspecError):
                found.append(msgspec.json.decode(value, type=Entry))
    return found


async def ask(store: Store, hints: Hints | None, worker: str, order: Order) -> bool:
    """Leave an order for a worker; False when there is none of this id. It obeys at once, or within ``PERIOD``."""
    if (await store.get(entry_key(worker))).value is None:
        return False
    key = order_key(worker)
    while not await store.swap(key, (await store.get(key)).value, msgspec.json.encode(order), ttl=LAPSE):
        pass
    if hints is not None:
        await hints.publish(ORDER, worker)
    return True


def entry_key(worker: str) -> str:
    """Where a worker's entry is."""
    return f"taskq:worker:{worker}"


def order_key(worker: str) -> str:
    """Where an order for it waits."""
    return f"taskq:order:{worker}"
