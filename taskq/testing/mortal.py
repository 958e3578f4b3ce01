"""Coroutines that die as processes do: at a chosen stop they are left where they are, and no ``finally`` runs.

A coroutine is driven step by step. Where it waits, and wherever it was taught to stop (``stops``), is a stop; at the
last one of its :class:`Life` it is never sent anything again. So are the asyncio tasks it has begun.
"""

import asyncio
import ctypes
import sqlite3
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import taskq
from taskq.store import Entry, Store
from taskq.testing.clock import code_and_next, is_outside

T = TypeVar("T")

_STANDARD = sysconfig.get_path("stdlib")
_OWN = str(Path(taskq.__file__).parent)


class Died(Exception):
    """A life has come to its last stop."""


class Stop:
    """What a coroutine yields to its life where it can die without waiting."""

    def __init__(self, place: str = "") -> None:
        self.place = place
        """Empty: wherever that is."""

    def __await__(self) -> Generator["Stop", None, None]:
        yield self


class Life:
    """The life of a process, as far as one coroutine and its children are concerned. It has so many stops at most."""

    def __init__(self, stops: int | None = None) -> None:
        self.stops = 0
        """How many it has come by so far."""
        self.place = ""
        """Where it died."""
        self._last = stops
        self._dead = asyncio.Event()
        self._active = False
        self._children: dict[asyncio.Task[Any], object] = {}

    async def run(self, main: Coroutine[Any, Any, T]) -> T:
        """What ``main`` returns; raises Died, and leaves it for ever, when the last stop comes first."""
        loop = asyncio.get_running_loop()
        factory = loop.get_task_factory()
        loop.set_task_factory(self._make_task)
        try:
            task = asyncio.Task(_Driven(self, main), loop=loop)
            dying = loop.create_task(self._dead.wait())
            await asyncio.wait({task, dying}, return_when=asyncio.FIRST_COMPLETED)
            dying.cancel()
            if not self._dead.is_set():
                return task.result()
            # First, as cancelling what waits for a connection may make its driver use it.
            for child in (main, *self._children.values()):
                _let_go(child)
            for left in (task, *self._children):
                left.cancel()
            await asyncio.wait({task, dying, *self._children})
            # Also those that had not begun.
            for child in (main, *self._children.values()):
                _keep_for_ever(child)
        finally:
            loop.set_task_factory(factory)
        raise Died(self.place)

    def _make_task(self, loop: asyncio.AbstractEventLoop, main: Any, **options: Any) -> "asyncio.Task[Any]":
        if not self._active:
            return asyncio.Task(main, loop=loop, **options)
        task = asyncio.Task(_Driven(self, main), loop=loop, **options)
        self._children[task] = main
        return task

    async def stop(self) -> None:
        """A stop inside of what was awaited; none for who is not of this life."""
        if self._active:
            await Stop()

    @property
    def is_over(self) -> bool:
        """Whether the last stop has come."""
        return self._dead.is_set()

    def come_by(self, place: str) -> None:
        """Count a stop; at the last one it is over."""
        self.stops += 1
        if self._last is not None and self.stops > self._last:
            self.place = place
            self._dead.set()

    @contextmanager
    def acting(self) -> Generator[None]:
        """While the coroutine acts: tasks that are made now are its children, and async generators nobody's."""
        hooks = sys.get_asyncgen_hooks()
        # The loop would close them at its end.
        sys.set_asyncgen_hooks(firstiter=None, finalizer=hooks.finalizer)
        self._active = True
        try:
            yield
        finally:
            self._active = False
            sys.set_asyncgen_hooks(*hooks)


class MortalStore:
    """A store before and after each call of which one can die."""

    def __init__(self, store: Store, life: Life) -> None:
        self._store = store
        self._life = life

    async def get(self, key: str) -> Entry:
        """As the store does it."""
        return await self._between(self._store.get(key))

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        """As the store does it."""
        return await self._between(self._store.swap(key, old, new, ttl=ttl))

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        """As the store does it."""
        return await self._between(self._store.add(key, members, ttl=ttl, ceiling=ceiling))

    async def discard(self, key: str, members: Sequence[str]) -> int:
        """As the store does it."""
        return await self._between(self._store.discard(key, members))

    async def _between(self, call: Awaitable[T]) -> T:
        await self._life.stop()
        answer = await call
        await self._life.stop()
        return answer


class _Driven(Coroutine[Any, Any, T]):
    """A coroutine that goes on as long as its life does."""

    # What asks a task where it stands finds the coroutine in here.
    __slots__ = ("_life", "_main")

    def __init__(self, life: Life, main: Coroutine[Any, Any, T]) -> None:
        self._life = life
        self._main = main

    def send(self, value: Any) -> Any:
        return self._advance(lambda: self._main.send(value))

    def throw(self, *error: Any) -> Any:
        return self._advance(lambda: self._main.throw(*error))

    def close(self) -> None:
        if not self._life.is_over:
            self._main.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise TypeError("this is for asyncio's tasks alone")

    def _advance(self, step: Callable[[], Any]) -> Any:
        while not self._life.is_over:
            with self._life.acting():
                waited = step()
            if isinstance(waited, Stop):
                self._life.come_by(waited.place or f"within the await at {place_of(self._main)}")
                step = self._go_on
            else:
                if not is_outside(self._main):
                    self._life.come_by(f"waiting at {place_of(self._main)}")
                if not self._life.is_over:
                    return waited
        raise asyncio.CancelledError

    def _go_on(self) -> Any:
        return self._main.send(None)


def place_of(main: Coroutine[Any, Any, Any]) -> str:
    """File and line where a coroutine waits: the innermost that is neither taskq's nor a library's."""
    frames = list(_frames(main))
    own = [frame for frame in frames if not _is_foreign(frame.f_code.co_filename)]
    frame = (own or frames)[-1]
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _is_foreign(file: str) -> bool:
    return file.startswith((_OWN, _STANDARD)) or "site-packages" in Path(file).parts


def _frames(step: object) -> Generator[FrameType]:
    while step is not None:
        frame = next(
            (getattr(step, name) for name in ("cr_frame", "gi_frame", "ag_frame") if hasattr(step, name)), None
        )
        if frame is not None:
            yield frame
        _, step = code_and_next(step)


def _let_go(main: object) -> None:
    """What the operating system does when a process dies: connections end, and what was not committed with them."""
    asyncpg = sys.modules.get("asyncpg")
    for frame in _frames(main):
        for name, value in list(frame.f_locals.items()):
            if isinstance(value, asyncio.StreamWriter):
                value.transport.abort()
            elif isinstance(value, sqlite3.Connection):
                # Closed, or of another thread.
                with suppress(sqlite3.ProgrammingError):
                    value.rollback()
            elif asyncpg and isinstance(value, asyncpg.Connection) and name not in frame.f_code.co_freevars:
                # Its own, not one that the runs share: its pool has the place back, if it has not yet.
                with suppress(asyncpg.InterfaceError):
                    value.terminate()


def _keep_for_ever(main: object) -> None:
    # A coroutine that is freed is closed, and then its finally blocks would run.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(main))
