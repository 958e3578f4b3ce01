"""One job's memory: how far it is and what its steps returned, under one key of the Store, guarded by the fence.

A run that has been overtaken can change nothing in it: each write is a compare-and-set against what this run wrote
last, and where that fails the larger fence is right. Written when it must be, else every few seconds and at the end
of each run; forgotten when the job has ended. A dead letter's notes stay, so that a revived job goes on.
"""

import asyncio
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from taskq.codec import Codec
from taskq.errors import BrokerError, ConfigError, StaleRun
from taskq.job import Delivery, JobRef
from taskq.ledger.values import remembered
from taskq.store import Store

T = TypeVar("T")

KEPT = 30 * 86_400.0
"""Seconds notes are kept after they were last written: longer than a job waits for its next run."""
LEFT_BEHIND = 3600.0
"""Seconds they lie about when the worker that should have removed them died, or was overtaken."""
EVERY = 5.0
"""Seconds between two writes of what need not be written at once."""


class Progress(Struct, frozen=True):
    """How far a job said it is."""

    done: float
    total: float | None = None


class Page(Struct, kw_only=True, omit_defaults=True):
    """What is written down."""

    fence: int
    at: float
    """When it was written, by the backend's clock."""
    results: dict[str, bytes] = {}
    """What each step returned."""
    marks: dict[str, bytes] = {}
    """How far each iteration is."""
    progress: Progress | None = None
    ended: bool = False
    """The job has been decided: only its settlement may be missing."""


def key_of(ref: JobRef) -> str:
    """Where the notes of a job are."""
    return f"notes:{ref.queue}:{ref.id}"


async def read_progress(store: Store, ref: JobRef) -> Progress | None:
    """What a live job or dead letter said last of how far it is."""
    found = (await store.get(key_of(ref))).value
    return None if found is None else _page(found).progress


class Notes:
    """The memory of the job of one delivery, in the hands of its run."""

    def __init__(self, store: Store, codec: Codec, delivery: Delivery, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._codec = codec
        self._delivery = delivery
        self._key = key_of(JobRef(delivery.job.queue, delivery.job.id))
        self._page: Page | None = None
        self._held: bytes | None = None
        """What the Store holds, as far as this run knows."""
        self._progress: Progress | None = None
        self._dirty = False
        self._names: set[str] = set()
        self._turn = asyncio.Lock()
        self._loop = loop
        self._lag = delivery.now - loop.time()
        # What flushes by time must not stand in a transaction that the handler happens to have open.
        self._context = Context()
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    def reserve(self, name: str) -> None:
        """Raises ConfigError when this run has used the name before: the two would take each other's notes."""
        if name in self._names:
            raise ConfigError(f"{name!r} was used in this run already: give each step and iteration a name of its own")
        self._names.add(name)

    async def result(self, name: str, type: Any) -> tuple[bool, Any]:
        """Whether a step has its result, and that."""
        page = await self._opened()
        found = page.results.get(name)
        return found is not None, None if found is None else self._codec.decoder(type)(found)

    async def keep_result(self, name: str, value: object, type: Any) -> None:
        """Remember what a step returned; written when this returns."""
        data = remembered(self._codec, value, type, f"the result of step {name!r}")
        (await self._opened()).results[name] = data
        await self.write()

    async def mark(self, name: str, type: type[T]) -> T | None:
        """What was marked under this name, in this run or before."""
        found = (await self._opened()).marks.get(name)
        if found is None:
            return None
        value: T = self._codec.decoder(type)(found)
        return value

    async def set_mark(self, name: str, mark: bytes) -> None:
        """Mark how far something is; written soon."""
        (await self._opened()).marks[name] = mark
        self._change()

    def set_progress(self, progress: Progress) -> None:
        """Say how far the job is; written soon. May be called from a thread."""
        self._progress = progress
        # Handlers that run in threads say so, too.
        self._loop.call_soon_threadsafe(self._change)

    async def write(self) -> None:
        """Write now; raises StaleRun when another run has the job."""
        page = await self._opened()
        async with self._turn:
            self._dirty = False
            try:
                await self._write(page)
            except BaseException:
                self._dirty = True
                raise

    async def leave(self, *, lost: bool) -> None:
        """The run is over and its job is not, or not known to be: write what was not written, if that can be done."""
        await self._stop_timer()
        with suppress(BrokerError, StaleRun):
            if lost:
                await self.lapse()
            elif self._dirty:
                await self.write()

    async def end(self) -> None:
        """The job has been decided. Notes that outlive it by mistake then bind no later job of its id."""
        await self._stop_timer()
        with suppress(StaleRun):
            page = await self._opened()
            if self._held is not None:
                page.ended = True
                await self.write()

    async def forget(self) -> None:
        """The job has ended: nothing of it remains."""
        if self._held is not None:
            await self._store.swap(self._key, self._held, None)

    async def lapse(self) -> None:
        """Somebody else has the job: what this run wrote last counts for who goes on, and else is soon gone."""
        if self._held is not None:
            await self._store.swap(self._key, self._held, self._held, ttl=LEFT_BEHIND)

    def abandon(self) -> None:
        """Write nothing more, as if the process had died."""
        self._dirty = False
        for pending in (self._timer, self._flushing):
            if pending is not None:
                pending.cancel()

    # Reading and writing the page

    async def _opened(self) -> Page:
        async with self._turn:
            if self._page is None:
                found = (await self._store.get(self._key)).value
                page = None if found is None else self._current(_page(found))
                if page is None or self._is_left_behind(page):
                    page = Page(fence=0, at=0.0)
                self._page, self._held = page, found
                if self._delivery.losses:
                    # The run before may still be going on: from here on it can write nothing.
                    await self._write(self._page)
            return self._page

    def _current(self, page: Page) -> Page:
        """The page; raises StaleRun when a later run wrote it."""
        delivery = self._delivery
        if page.fence > delivery.fence and page.at >= delivery.now:
            raise self._stale
        return page

    def _is_left_behind(self, page: Page) -> bool:
        """Whether an earlier job of the same id wrote it."""
        return page.fence >= self._delivery.fence or (page.ended and not self._delivery.losses)

    @property
    def _stale(self) -> StaleRun:
        job = self._delivery.job.id
        return StaleRun(f"job {job} was fetched again after this run began: nothing the run does counts any more")

    async def _write(self, page: Page) -> None:
        page.fence, page.at = self._delivery.fence, self._loop.time() + self._lag
        page.progress = self._progress or page.progress
        new = msgspec.msgpack.encode(page)
        ttl = LEFT_BEHIND if page.ended else KEPT
        while not await self._store.swap(self._key, self._held, new, ttl=ttl):
            # Either an answer was lost and this is our own, or an overtaken run wrote last, or we are the overtaken.
            found = (await self._store.get(self._key)).value
            if found is None and self._held is not None:
                # Somebody ended the job.
                raise self._stale
            if found is not None:
                self._current(_page(found))
            self._held = found
        self._held = new

    # Writing by time

    def _change(self) -> None:
        self._dirty = True
        if self._timer is None:
            self._timer = self._loop.call_later(EVERY, self._flush, context=self._context)

    def _flush(self) -> None:
        self._timer = None
        self._flushing = self._loop.create_task(self._write_soon(), context=self._context)

    async def _write_soon(self) -> None:
        try:
            await self.write()
        except BrokerError:
            self._change()
        except StaleRun:
            # The run is told by whatever it does next.
            pass

    async def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._flushing is not None:
            await asyncio.wait({self._flushing})


def _page(data: bytes) -> Page:
    return msgspec.msgpack.decode(data, type=Page)
