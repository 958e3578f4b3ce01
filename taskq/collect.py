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
from typing import Any, Protocol

import msgspec
from msgspec import Struct, field

from taskq.call import new_id
from taskq.codec import Codec
from taskq.context import Current
from taskq.errors import (
    BrokerUnavailable,
    ConfigError,
    Conflict,
    Discard,
    EncodeError,
    PayloadTooLarge,
    SomeFailed,
)
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

ID = 32
"""Characters of an item's id, with which its member begins."""


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
    id: str = field(default_factory=new_id)

    @property
    def member(self) -> str:
        """What it is in its set."""
        return self.id + self.body.decode()


class Kept(Struct, frozen=True):
    """An item in the spool."""

    window: Job
    size: int
    wait: float
    body: bytes
    tried: str | None
    """The set that it may be in: the answer was lost."""


class Sender(Protocol):
    """The way of jobs to the broker."""

    async def enqueue(self, job: Job) -> Enqueued:
        """As ``defer`` does."""
        ...

    async def prepare(self, job: Job) -> Job:
        """The job as the defer middleware leaves it; raises what refuses it."""
        ...


class Spool(Protocol):
    """Where items wait while the Store is out of reach."""

    @property
    def holds(self) -> bool:
        """Whether anything waits, so that the next one lines up behind it."""
        ...

    def wants(self, job: Job) -> bool:
        """Whether what this job would run with is kept at all."""
        ...

    async def keep_items(self, key: str, items: Mapping[str, bytes]) -> None:
        """Keep what is to be collected under a key, by its ids, all or none; raises SpoolFull."""
        ...


class Collector:
    """Adds items, and enqueues the jobs that run with them; what is deferred at the same time shares both calls."""

    def __init__(self, store: Store, sender: Sender, spool_of: Callable[[str], Spool | None]) -> None:
        self._store = store
        self._sender = sender
        self._spool_of = spool_of
        """That of a queue."""
        self._offset: float | None = None
        """What the server's clock is ahead of the event loop's. It only names windows: all of them are safe."""
        self._full: dict[str, tuple[int, int]] = {}
        """For each key the window and how many of its sets are known to be full."""
        self._sharing: Sharing[str, Item, Enqueued] = Sharing(self._add)

    async def add(self, item: Item) -> Enqueued:
        """When this returns the item is as durable as a job; the answer is of the job that will run with it.

        For an item that waits in the spool that is not known yet: the id is its own. Raises PayloadTooLarge for an item
        of more than 2,000 bytes, SpoolFull, and BrokerUnavailable where no spool takes it.
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
            answers += await self._add_part(key, items[first : first + size])
        return answers

    async def _add_part(self, key: str, items: Sequence[Item]) -> Sequence[Enqueued]:
        collect, window = items[0].collect, items[0].window
        spool = self._spool_of(window.queue)
        if spool is not None and spool.holds:
            if not spool.wants(window):
                raise BrokerUnavailable("the broker is out of reach, and the task's items do not wait in the spool")
            return await self._keep(spool, key, items, None)
        name = None
        try:
            number, left = await self._window(key, seconds(collect.wait, "wait"))
            known, full = self._full.get(key, (number, 0))
            if known != number:
                full = 0
            while True:
                name = f"collect:{key}:{number}.{full}"
                if await self._store.add(name, [item.member for item in items], ceiling=collect.size):
                    break
                # Enough have gathered: its job is due now.
                await self._enqueue_window(window, name, 0.0)
                full += 1
        except BrokerUnavailable:
            if spool is None or not spool.wants(window):
                raise
            return await self._keep(spool, key, items, name)
        if full:
            self._full[key] = number, full
        else:
            self._full.pop(key, None)
        return [await self._enqueue_window(window, name, left)] * len(items)

    async def _keep(self, spool: Spool, key: str, items: Sequence[Item], tried: str | None) -> Sequence[Enqueued]:
        collect, window = items[0].collect, await self._sender.prepare(items[0].window)
        wait = seconds(collect.wait, "wait")
        kept = {item.id: msgspec.msgpack.encode(Kept(window, collect.size, wait, item.body, tried)) for item in items}
        await spool.keep_items(key, kept)
        return [Enqueued(item.id, added=True) for item in items]

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
            return await self._sender.enqueue(job)
        except Conflict as conflict:
            # It starts at this very moment.
            return Enqueued(conflict.holder, added=False)

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
        texts = ",".join(member[ID:] for member in members)
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
        claims = read_claims(entry.value)
        if id not in claims:
            others = {member for claim in claims.values() for member in claim}
            free = sorted(member[:ID] for member in entry.members if member[:ID] not in others)
            if not free:
                return ()
            claims[id] = free
            if not await store.swap(name, entry.value, msgspec.msgpack.encode(claims)):
                continue
        mine = set(claims[id])
        members = sorted(member for member in entry.members if member[:ID] in mine)
        if not members:
            await _unclaim(store, name, id)
        return members


async def _unclaim(store: Store, name: str, id: str) -> None:
    swapped = False
    while not swapped:
        value = (await store.get(name)).value
        claims = read_claims(value)
        claims.pop(id, None)
        swapped = await store.swap(name, value, msgspec.msgpack.encode(claims) if claims else None)


def read_claims(value: bytes | None) -> dict[str, list[str]]:
    """Which items of a set each job runs with."""
    return {} if value is None else msgspec.msgpack.decode(value, type=dict[str, list[str]])
