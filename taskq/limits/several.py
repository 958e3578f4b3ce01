"""Several limits at once: all of them (``a & b``), or the first that has room (``a | b``)."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Any, Generic, TypeVar, cast

from taskq.errors import ConfigError, LimitExceeded
from taskq.limits.holding import CAP, FIRST, Granted, Held, Holding, Refused
from taskq.limits.keeper import keeper

T = TypeVar("T")
U = TypeVar("U")


class Both:
    """``async with a & b as (a, b):`` Entered in this order, left together; if one is refused, none is granted."""

    def __init__(self, parts: Sequence[Holding[object]]) -> None:
        self.parts: Sequence[Holding[object]] = [
            inner for part in parts for inner in (part.parts if isinstance(part, Both) else [checked(part)])
        ]

    def __and__(self, other: Holding[object]) -> "Both":
        return Both([self, other])

    def __or__(self, other: Holding[U]) -> "Either[tuple[object, ...] | U]":
        return Either([self, other])

    @property
    def wait(self) -> float:
        """Seconds that each of them is waited for at least."""
        return min(part.wait for part in self.parts)

    async def soon(self) -> float | None:
        """In how many seconds the last turn comes, None where nobody knows; nothing is taken."""
        turns = [await part.soon() for part in self.parts]
        return None if None in turns else max(turn for turn in turns if turn is not None)

    async def claim(self, patience: float) -> Granted[tuple[object, ...]] | Refused:
        """Take all, if the turn of each comes within so many seconds."""
        after = await self.soon()
        if after is None or after > patience:
            return Refused("one of several limits has no room", FIRST if after is None else after)
        granted: list[Granted[object]] = []
        async with AsyncExitStack() as undoing:
            for part in self.parts:
                claimed = await part.claim(patience)
                if isinstance(claimed, Refused):
                    return claimed
                granted.append(_undone_by(undoing, claimed))
            undoing.pop_all()
        return _together(granted)

    async def enter(self) -> Granted[tuple[object, ...]]:
        """Take them one after the other, and return when all count; raises LimitExceeded."""
        async with AsyncExitStack() as undoing:
            granted = [_undone_by(undoing, await part.enter()) for part in self.parts]
            undoing.pop_all()
        return _together(granted)

    async def __aenter__(self) -> tuple[object, ...]:
        return remember(await self.enter())

    async def __aexit__(self, *error: Any) -> None:
        await leave()


class Either(Generic[T]):
    """``async with a | b as granted:`` The first that has room, else the one whose turn comes sooner; never two.

    ``granted`` is the limit that granted it. Each is waited for as long as it says itself.
    """

    def __init__(self, parts: Sequence[Holding[T]]) -> None:
        self.parts: Sequence[Holding[T]] = [
            inner for part in parts for inner in (part.parts if isinstance(part, Either) else [checked(part)])
        ]

    def __or__(self, other: Holding[U]) -> "Either[T | U]":
        return Either([self, other])

    def __and__(self, other: Holding[object]) -> Both:
        return Both([self, other])

    @property
    def wait(self) -> float:
        """Seconds that entering it may take."""
        return max(part.wait for part in self.parts)

    async def soon(self) -> float | None:
        """In how many seconds the first turn comes, None where nobody knows; nothing is taken."""
        return min([turn for part in self.parts if (turn := await part.soon()) is not None], default=None)

    async def claim(self, patience: float) -> Granted[T] | Refused:
        """Take the first that has room, or else the sooner one, if its turn comes within so many seconds."""
        claimed = await self._first()
        if isinstance(claimed, Granted):
            return claimed
        part, refused = min(claimed, key=_after)
        return await part.claim(patience) if refused.after <= patience else refused

    async def enter(self) -> Granted[T]:
        """Take one, and return when it counts; raises LimitExceeded."""
        async with AsyncExitStack() as undoing:
            granted = _undone_by(undoing, await self._await_turn())
            await asyncio.sleep(granted.wait)
            undoing.pop_all()
        return granted

    async def __aenter__(self) -> T:
        return remember(await self.enter())

    async def __aexit__(self, *error: Any) -> None:
        await leave()

    async def _first(self) -> "Granted[T] | list[tuple[Holding[T], Refused]]":
        refused: list[tuple[Holding[T], Refused]] = []
        for part in self.parts:
            claimed = await part.claim(0.0)
            if isinstance(claimed, Granted):
                return claimed
            refused.append((part, claimed))
        return refused

    async def _await_turn(self) -> Granted[T]:
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), FIRST
        while True:
            claimed = await self._first()
            if isinstance(claimed, Granted):
                return claimed
            waited = loop.time() - began
            worth = sorted([one for one in claimed if one[1].after <= one[0].wait - waited], key=_after)
            if not worth:
                for _, refused in claimed:
                    if refused.key is not None:
                        keeper().refuse(refused.key, refused.after)
                reasons = "; ".join(refused.reason for _, refused in claimed)
                raise LimitExceeded(reasons, max(1.0, min(map(_after, claimed))))
            (part, refused), *others = worth
            if refused.after <= pause:
                await asyncio.sleep(pause)
                pause = min(CAP, pause * 1.5)
                continue
            # Its turn is taken now: who waits for this limit alone has done so, and would always come before.
            taken = await part.claim(min([part.wait - waited, *map(_after, others)]))
            if isinstance(taken, Granted):
                return taken


_entered: ContextVar[tuple[Sequence[Held], ...]] = ContextVar("taskq.entered", default=())
"""What the running asyncio task stands in by limits without a hold of their own, the innermost last."""


def remember(granted: Granted[T]) -> T:
    """What was given; ``leave()`` in the same asyncio task will leave it."""
    _entered.set((*_entered.get(), granted.held))
    return granted.given


async def leave() -> None:
    """Leave what was entered last."""
    *rest, held = _entered.get()
    _entered.set(tuple(rest))
    # All of them, even if one of these calls is cancelled.
    async with AsyncExitStack() as leaving:
        for one in held:
            leaving.push_async_callback(one.leave)


def checked(part: Holding[T]) -> Holding[T]:
    """Raises ConfigError for what is no limit."""
    if not isinstance(cast("object", part), Holding):
        raise ConfigError(f"{part!r} is no limit: combine RateLimit and Concurrency by & and |")
    return part


def _together(granted: Sequence[Granted[object]]) -> Granted[tuple[object, ...]]:
    held = [held for one in granted for held in one.held]
    return Granted(tuple(one.given for one in granted), held, max(one.wait for one in granted))


def _undone_by(undoing: AsyncExitStack, granted: Granted[T]) -> Granted[T]:
    """The same; it is undone when the stack is left, whatever else is cancelled by then."""
    for held in granted.held:
        undoing.push_async_callback(held.undo)
    return granted


def _after(refusal: tuple[Holding[Any], Refused]) -> float:
    return refusal[1].after
