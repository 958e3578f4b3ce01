"""Effects that must happen once, whoever tries: each has a key, and the Store knows what became of it.

A key is *started* before its effect and *done* after it. A run that dies in between leaves it started, and then nobody
knows whether the effect happened: the next one who comes is told so, and says what to do.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from typing import Literal

import msgspec
from msgspec import Struct

from taskq.errors import BrokerError, EffectUnknown, HandedBack, StaleRun
from taskq.job import Delivery
from taskq.store import Entry, Store

Check = Callable[[], bool | Awaitable[bool]]
"""Finds out whether the effect has happened."""
OnUnknown = Literal["retry", "raise"] | Check

KEPT = 30 * 86_400.0
"""Seconds a key is remembered unless somebody says otherwise."""
HELD = 30.0
"""Seconds after which a key that was started by a dead worker counts as left; renewed while the effect goes on."""
AGAIN = 2.0
"""Seconds after which a job comes back that found another one at its key."""


class Once(Struct, frozen=True):
    """What is known of an effect where it is to happen."""

    needed: bool
    """False: it has happened, leave it."""


class _Mark(Struct, frozen=True, omit_defaults=True):
    job: str
    fence: int
    at: float
    holder: str = ""
    done: bool = False


class Effect:
    """One key, tried by one run."""

    def __init__(self, store: Store, delivery: Delivery, key: str, keep: float) -> None:
        self._store = store
        self._delivery = delivery
        self._name = key
        self._key = f"once:{key}"
        self._keep = keep
        self._holder = token_hex(8)

    @asynccontextmanager
    async def once(self, on_unknown: OnUnknown) -> AsyncGenerator[Once]:
        """Start, do, done. A raise inside leaves the key started: nobody can say whether it happened."""
        started = await self._start(on_unknown)
        if started is None:
            yield Once(needed=False)
            return
        renewing = asyncio.ensure_future(self._renew())
        try:
            yield Once(needed=True)
            await self._finish(started)
        except BaseException:
            with suppress(BrokerError):
                await self._store.discard(self._key, [self._holder])
            raise
        finally:
            renewing.cancel()

    async def _start(self, on_unknown: OnUnknown) -> bytes | None:
        """What the key says once it is ours, None when the effect has happened."""
        entry = await self._store.get(self._key)
        if _is_done(entry):
            return None
        await self._store.add(self._key, [self._holder], ttl=HELD)
        while not _is_done(entry):
            if entry.value is not None and await self._has_happened(entry, on_unknown):
                await self._store.swap(self._key, entry.value, self._marked(entry, done=True), ttl=self._keep)
            else:
                started = self._marked(entry, done=False)
                if await self._store.swap(self._key, entry.value, started, ttl=self._keep):
                    return started
            entry = await self._store.get(self._key)
        return None

    async def _has_happened(self, entry: Entry, on_unknown: OnUnknown) -> bool:
        """Whether an effect that somebody started has happened, as the caller says; raises when it is not ours."""
        mark, delivery = _read(entry), self._delivery
        own = mark.job == self._job
        if own and mark.fence > delivery.fence and mark.at >= delivery.now:
            raise StaleRun(f"job {delivery.job.id} was fetched again after this run began: the effect is not its own")
        if not own and mark.holder in entry.members:
            await self._store.discard(self._key, [self._holder])
            raise HandedBack(AGAIN, f"job {mark.job} is at {self._name!r}")
        if on_unknown == "retry":
            return False
        if on_unknown == "raise":
            raise EffectUnknown(f"{self._name!r} was started by job {mark.job}, and nobody knows whether it happened")
        happened = on_unknown()
        return await happened if inspect.isawaitable(happened) else happened

    async def _finish(self, started: bytes) -> None:
        done = msgspec.msgpack.encode(msgspec.structs.replace(_decoded(started), done=True, holder=""))
        expected: bytes | None = started
        while not await self._store.swap(self._key, expected, done, ttl=self._keep):
            entry = await self._store.get(self._key)
            if _is_done(entry):
                return
            if entry.value not in (None, started):
                raise StaleRun(f"{self._name!r} was taken over by job {_read(entry).job} while this run was at it")
            expected = entry.value

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(HELD / 3)
            with suppress(BrokerError):
                await self._store.add(self._key, [self._holder], ttl=HELD)

    @property
    def _job(self) -> str:
        return f"{self._delivery.job.queue}/{self._delivery.job.id}"

    def _marked(self, entry: Entry, *, done: bool) -> bytes:
        holder = "" if done else self._holder
        return msgspec.msgpack.encode(_Mark(self._job, self._delivery.fence, entry.now, holder, done))


def _is_done(entry: Entry) -> bool:
    return entry.value is not None and _read(entry).done


def _read(entry: Entry) -> _Mark:
    assert entry.value is not None, "only who found something reads it"  # noqa: S101
    return _decoded(entry.value)


def _decoded(value: bytes) -> _Mark:
    return msgspec.msgpack.decode(value, type=_Mark)
