"""Going through many items in one job, so that the next run goes on behind the last one that was done."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from taskq.codec import Codec
from taskq.errors import ConfigError
from taskq.ledger.notes import Notes
from taskq.ledger.values import first_parameter_type, remembered

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


class Iteration:
    """What one iteration goes by."""

    def __init__(self, notes: Notes, codec: Codec, name: str, key: Callable[[Any], object] | None) -> None:
        notes.reserve(f"iteration {name}")
        self._notes = notes
        self._codec = codec
        self._name = name
        self._key = key

    async def items(self, source: Source[T], every: int | None, pause: Callable[[], Any]) -> AsyncGenerator[T]:
        """The items not yet done. When one is asked for, the one before is done.

        ``every`` so many items what is done is written down before the next is given; otherwise by time. ``pause`` is
        awaited between items.
        """
        mark = await self._notes.mark(self._name, Mark) or Mark()
        if mark.finished:
            return
        if callable(source) and self._key is None:
            raise ConfigError(f"iteration {self._name!r}: a function of the cursor needs key=, which gives an item's")
        kind = first_parameter_type(source) if callable(source) else Any
        async for item in self._behind(mark, source, kind):
            yield item
            cursor = b"null" if self._key is None else remembered(self._codec, self._key(item), kind, "a cursor")
            mark = Mark(mark.done + 1, msgspec.Raw(cursor))
            await self._notes.set_mark(self._name, self._codec.encode(mark))
            if every is not None and mark.done % every == 0:
                await self._notes.write()
            await pause()
        finished = Mark(mark.done, mark.cursor, finished=True)
        await self._notes.set_mark(self._name, self._codec.encode(finished))
        await self._notes.write()

    async def _behind(self, mark: Mark, source: Source[T], kind: Any) -> AsyncGenerator[T]:
        if callable(source):
            cursor = self._codec.decoder(kind)(bytes(mark.cursor)) if mark.done else None
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
