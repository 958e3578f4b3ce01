"""One run for all that gathered: calls of a key are collected in the Store, and one job runs with them.

An item is a member of its window's key; the window's job holds a unique key until it starts. An item is added first,
and then the job is enqueued: either it waits still, and will find the item, or it has started, and a new one is added.
A job that starts claims what nobody has claimed, by compare-and-set on the same key, so its set is the same in every
attempt and in no other job; what its run has done is discarded before it is acked, and when some of it has failed
before it is retried with that. A window is closed by its time or its size; the next items go into the next one.
"""

import asyncio
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from math import floor
from typing import Any

import msgspec
from msgspec import Struct

from taskq.call import new_id
from taskq.codec import Codec
from taskq.context import Current
from taskq.errors import ConfigError, Conflict, Discard, EncodeError, PayloadTooLarge, SomeFailed
from taskq.job import Enqueued, Job
from taskq.limits.keeper import keeper
from taskq.limits.limit import Key, check_key, text_of
from taskq.middleware import Handler
from taskq.options import seconds
from taskq.sharing import Sharing
from taskq.signature import Signature
from taskq.store import Store

COLLECT = "taskq-collect"
"""Header of a window's job: the key of its items."""

LARGEST = 2000
"""Bytes of an item: what every Store takes as a member."""

_ID = 32

Enqueue = Callable[[Job], Any]


class Collect(Struct, frozen=True):
    """``collect=Collect(size=500, wait=300, key=("post",))``: one run with up to ``size`` items of a key.

    It begins when ``size`` have gathered, or at the end of their window of ``wait`` seconds. ``key`` names fields of
    the item, or is a function of it; None: one for all. Raises ConfigError for numbers that make no sense.
    """

    size: int = 500
    wait: float | timedelta = 300.0
    key: Key = None

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= 100_000:
            raise ConfigError(f"Collect(size={self.size!r}): give how many items a run takes at most, 1 to 100,000")
        if not seconds(self.wait, "Collect(wait)"):
            raise ConfigError("Collect(wait=0): give the seconds in which items gather")
        check_key(self.key)

    def key_text(self, task: str, item: Any, codec: Codec) -> str:
        """What an item is collected under; raises ConfigError when that cannot be said."""
        if self.key is None:
            return ""
        try:
            if callable(self.key):
                return text_of([self.key(item)], codec)
            return text_of(
                [item[name] if isinstance(item, Mapping) else getattr(item, name) for name in self.key], codec
            )
        except Exception as error:
            raise ConfigError(
                f"task {task}: the key of what is collected cannot be found: {type(error).__name__}: {error}"
            ) from error


class Item(Struct, frozen=True):
    """Something to be collected."""

    collect: Collect
    key: str
    body: bytes
    """Its JSON."""
    window: Job
    """What runs with it, but for its key and moment."""


class Collector:
    """Adds items, and enqueues the jobs that run with them; what is deferred at the same time shares both calls."""

    def __init__(self, store: Store, enqueue: Callable[[Job], Any]) -> None:
        self._store = store
        self._enqueue = enqueue
        self._offset: float | None = None
        """What the server's clock is ahead of the event loop's. It only names windows: all of them are safe."""
        self._full: dict[str, tuple[int, int]] = {}
        """For each key the window and how many of its sets are known to be full."""
        self._sharing: Sharing[str, Item, Enqueued] = Sharing(self._add)

    async def add(self, item: Item) -> Enqueued:
        """When this returns the item is as durable as a job; the answer is of the job that will run with it.

        Raises PayloadTooLarge for an item of more than 2,000 bytes.
        """
        if len(item.body) > LARGEST:
            raise PayloadTooLarge(
                f"task {item.window.task}: an item takes {len(item.body):,} bytes, collecting {LARGEST:,}; "
                "store the content elsewhere and pass where it is"
            )
        return await self._sharing.ask(f"{item.window.queue}:{item.window.task}:{item.key}", item)

    async def _add(self, key: str, items: Sequence[Item]) -> Sequence[Enqueued]:
        size = items[0].collect.size
        answers: list[Enqueued] = []
        for first in range(0, len(items), size):
            part = items[first : first + size]
            answers += [await self._add_part(key, part)] * len(part)
        return answers

    async def _add_part(self, key: str, items: Sequence[Item]) -> Enqueued:
        collect, window = items[0].collect, items[0].window
        number, left = await self._window(key, seconds(collect.wait, "wait"))
        members = [new_id() + item.body.decode() for item in items]
        known, full = self._full.get(key, (number, 0))
        if known != number:
            full = 0
        while True:
            name = f"collect:{key}:{number}.{full}"
            if await self._store.add(name, members, ceiling=collect.size):
                break
            # Enough have gathered: its job is due now.
            await self._enqueue_window(window, name, 0.0)
            full += 1
        if full:
            self._full[key] = number, full
        else:
            self._full.pop(key, None)
        return await self._enqueue_window(window, name, left)

    async def _enqueue_window(self, window: Job, name: str, delay: float) -> Enqueued:
        job = msgspec.structs.replace(
            window,
            id=new_id(),
            headers={**window.headers, COLLECT: name},
            delay=delay,
            unique=name,
            unique_until="start",
            on_conflict="return" if delay else "replace",
        )
        try:
            enqueued: Enqueued = await self._enqueue(job)
        except Conflict as conflict:
            # It starts at this very moment.
            return Enqueued(conflict.holder, added=False)
        return enqueued

    async def _window(self, key: str, wait: float) -> tuple[int, float]:
        """The number of the window that is open, and how long it still is; those of different keys end apart."""
        loop = asyncio.get_running_loop()
        if self._offset is None:
            self._offset = (await self._store.get(f"collect:{key}")).now - loop.time()
        since = self._offset + loop.time() + zlib.crc32(key.encode()) / 2**32 * wait
        number = floor(since / wait)
        return number, (number + 1) * wait - since


def collecting(handler: Handler, signature: Signature, codec: Codec) -> Handler:
    """The handler of a task that collects: called with the items of the window whose job it runs."""

    (argument,) = signature.names

    async def call(current: Current) -> Any:
        name = current.headers.get(COLLECT)
        if name is None:
            return await handler(current)
        store = keeper().store
        members = await _claimed(store, name, current.id)
        if not members:
            raise Discard("nothing was left to collect")
        texts = ",".join(member[_ID:] for member in members)
        current.arguments = args, kwargs = signature.decode(f'{{"v":1,"args":{{"{argument}":[{texts}]}}}}'.encode())
        (items,) = map(list[Any], (*args, *kwargs.values()))
        try:
            value = await handler(current)
        except SomeFailed as some:
            left = _places(items, some.items, codec)
            await store.discard(name, [member for place, member in enumerate(members) if place not in left])
            raise
        await store.discard(name, members)
        await _unclaim(store, name, current.id)
        return value

    return call


def _places(items: Sequence[Any], failed: Sequence[Any], codec: Codec) -> set[int]:
    """Where the items that failed are among the run's. Equal ones are as good as each other."""
    known: dict[bytes, list[int]] = {}
    for place, item in enumerate(items):
        known.setdefault(codec.encode(item), []).append(place)
    try:
        return {known[codec.encode(item)].pop() for item in failed}
    except (KeyError, IndexError, EncodeError) as error:
        raise ConfigError("SomeFailed names an item that the run was not given: none of its items is done") from error


async def _claimed(store: Store, name: str, id: str) -> Sequence[str]:
    """The items of this job, the same in every attempt; none are left when a run of it has come to its end."""
    while True:
        entry = await store.get(name)
        claims = _read(entry.value)
        if id not in claims:
            others = {member for claim in claims.values() for member in claim}
            free = sorted(member[:_ID] for member in entry.members if member[:_ID] not in others)
            if not free:
                return ()
            claims[id] = free
            if not await store.swap(name, entry.value, msgspec.msgpack.encode(claims)):
                continue
        mine = set(claims[id])
        members = sorted(member for member in entry.members if member[:_ID] in mine)
        if not members:
            await _unclaim(store, name, id)
        return members


async def _unclaim(store: Store, name: str, id: str) -> None:
    swapped = False
    while not swapped:
        value = (await store.get(name)).value
        claims = _read(value)
        claims.pop(id, None)
        swapped = await store.swap(name, value, msgspec.msgpack.encode(claims) if claims else None)


def _read(value: bytes | None) -> dict[str, list[str]]:
    return {} if value is None else msgspec.msgpack.decode(value, type=dict[str, list[str]])
