"""Going through many items in one job, so that the next run goes on behind the last one that was done."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskq.codec import Codec
from taskq.errors import ConfigError
from taskq.ledger.notes import Notes
from taskq.ledger.values import first_parameter_type, remembered
from taskq.ledger.window import Window

T = TypeVar("T")

Items = Iterable[T] | AsyncIterable[T]
Source = Items[T] | Callable[[Any], Items[T]]
"""Items, always the same in the same order; or a function from the last cursor (None at first) to those behind it."""


class Mark(Struct, frozen=True, omit_defaults=True):
    """How far an iteration is."""

    done: int = 0
    cursor: msgspec.Raw = msgspec.Raw(b"null")
    """The key of the last item that was done."""
    finished: bool = False


class Pace(Struct, frozen=True):
    """How a run goes through its items."""

    every: int | None
    """So many are done when that is written down before the next one; None: by time."""
    grace: float
    """Seconds that an item may take, so that a worker which drains need not cut it off."""
    logger: logging.LoggerAdapter[logging.Logger]
    is_to_leave: Callable[[], bool]
    """Whether the run is to go on as another one."""
    pause: Callable[[], Awaitable[None]]
    """Awaited between items; raises when the run is to leave."""


class Iteration:
    """What one iteration goes by."""

    def __init__(self, notes: Notes, codec: Codec, name: str, key: Callable[[Any], object] | None, pace: Pace) -> None:
        notes.reserve(f"iteration {name}")
        self._notes = notes
        self._codec = codec
        self._name = name
        self._key = key
        self._pace = pace
        self._kind: Any = Any
        """What the source says of its cursor's type."""
        self._mark = Mark()
        self._told = False

    async def items(self, source: Source[T]) -> AsyncGenerator[T]:
        """The items not yet done. When one is asked for, the one before is done."""
        if await self._begin(source):
            async for item in self._behind(source):
                began = self._now()
                yield item
                self._tell_if_slow(began)
                await self._pass(item)
                await self._pace.pause()
            await self._finish()

    async def each(self, source: Source[T], handle: Callable[[T], Awaitable[object]], size: int) -> None:
        """Handle the items not yet done, so many at once. One is done when it has returned, and all before it have."""

        async def timed(item: T) -> None:
            began = self._now()
            await handle(item)
            self._tell_if_slow(began)

        if await self._begin(source):
            await Window(size, timed, self._pace.is_to_leave).run(self._behind(source), self._pass)
            await self._pace.pause()
            await self._finish()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _tell_if_slow(self, began: float) -> None:
        took, grace = self._now() - began, self._pace.grace
        if took > grace and not self._told:
            self._told = True
            self._pace.logger.warning(
                "an item took %.0f s, longer than the grace of %.0f s: a worker that drains would cut it off",
                took,
                grace,
            )

    async def _begin(self, source: Source[Any]) -> bool:
        """Read how far it is; False when it is at its end."""
        self._mark = await self._notes.mark(self._name, Mark) or Mark()
        if not self._mark.finished and callable(source):
            if self._key is None:
                raise ConfigError(f"iteration {self._name!r}: a function of the cursor needs key=, an item's cursor")
            self._kind = first_parameter_type(source)
        return not self._mark.finished

    async def _pass(self, item: Any) -> None:
        """The next item is done."""
        cursor = b"null" if self._key is None else remembered(self._codec, self._key(item), self._kind, "a cursor")
        await self._set(Mark(self._mark.done + 1, msgspec.Raw(cursor)))
        every = self._pace.every
        if every is not None and self._mark.done % every == 0:
            await self._notes.write()

    async def _finish(self) -> None:
        await self._set(replace(self._mark, finished=True))
        await self._notes.write()

    async def _set(self, mark: Mark) -> None:
        self._mark = mark
        await self._notes.set_mark(self._name, self._codec.encode(mark))

    async def _behind(self, source: Source[T]) -> AsyncGenerator[T]:
        mark = self._mark
        if callable(source):
            cursor = self._codec.decoder(self._kind)(bytes(mark.cursor)) if mark.done else None
            async for item in _each(source(cursor)):
                yield item
            return
        passed = 0
        async for item in _each(source):
            passed += 1
            if passed > mark.done:
                yield item
            elif passed == mark.done and self._key is not None:
                self._compare(self._key(item), mark)
        if passed < mark.done:
            raise ConfigError(f"iteration {self._name!r} was at item {mark.done} and has only {passed} now: {_REMEDY}")

    def _compare(self, key: object, mark: Mark) -> None:
        was = bytes(mark.cursor)
        if self._codec.encode(key) != was:
            place = f"iteration {self._name!r}: item {mark.done}"
            raise ConfigError(f"{place} was {was.decode()} and is {key!r} now: {_REMEDY}")


_REMEDY = "iterate over what does not change, or over a function of the cursor"


async def _each(items: Items[T]) -> AsyncGenerator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
