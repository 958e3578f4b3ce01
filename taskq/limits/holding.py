"""Limits inside a handler: a permit of a rate limit, a place of a concurrency limit."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from contextvars import ContextVar
from math import inf
from typing import Any, Protocol, Self

from taskq.context import running
from taskq.errors import BrokerError, ConfigError, LimitExceeded
from taskq.limits.keeper import keeper
from taskq.limits.line import Asked
from taskq.limits.rates import Leaky, Rate
from taskq.retryafter import RetryAfter, seconds_or_moment

_FIRST, _CAP = 0.02, 0.5
"""Seconds between looks for a free place, which nobody tells of: growing, so that many who wait cost little."""


class Holding(Protocol):
    """Something to be held for the length of an ``async with``."""

    async def __aenter__(self) -> object: ...
    async def __aexit__(self, *error: Any) -> None: ...


class Permit:
    """To begin once. Entering waits up to ``wait`` seconds for its turn, and raises LimitExceeded if that is later."""

    def __init__(self, rate: Rate, key: str, cost: float, wait: float) -> None:
        if not 0 <= cost <= rate.most:
            raise ConfigError(f"cost={cost!r}: this limit grants at most {rate.most:g} at once")
        self._rate = rate
        self._key = key
        self._cost = cost
        self._wait = wait

    async def __aenter__(self) -> Self:
        if self._rate.most < inf:
            answer = await keeper().ask(self._rate, self._key, Asked(self._cost, patience=self._wait))
            if not answer.granted:
                raise LimitExceeded(f"{self._key}: its turn comes in {answer.wait:.3g} s", answer.wait)
            if answer.wait > 0:
                await asyncio.sleep(answer.wait)
        return self

    async def __aexit__(self, *error: Any) -> None:
        """A permit is used up by entering."""

    async def settle(self, cost: float) -> None:
        """Say what it really cost; the limit goes by that from now on. For the kinds leaky and points."""
        if not isinstance(self._rate, Leaky):
            raise ConfigError("only a limit of kind points or leaky can be told what a call cost in the end")
        await keeper().add(self._rate, self._key, cost - self._cost)
        self._cost = cost

    async def pause(self, retry_after: RetryAfter) -> None:
        """Grant nothing for so many seconds, until this moment, or as a ``Retry-After`` header says."""
        seconds, until = _parsed(retry_after)
        await keeper().pause(self._rate, self._key, until, seconds)


class Place:
    """One of ``n``, renewed with the job's lease. Entering waits up to ``wait`` seconds, then raises LimitExceeded.

    It belongs to this one run: no other can free it, and when its worker dies it is free when the lease is over.
    """

    def __init__(self, key: str, n: int, wait: float) -> None:
        self._key = key
        self._n = n
        self._wait = wait
        current = running.get(None)
        holder = os.urandom(8).hex() if current is None else current.delivery.receipt
        self._member = f"{holder}/{os.urandom(8).hex()}"

    async def __aenter__(self) -> Self:
        keeps, loop = keeper(), asyncio.get_running_loop()
        until, pause = loop.time() + self._wait, _FIRST
        while not await keeps.take(self._key, self._member, self._n):
            left = until - loop.time()
            if left <= 0:
                raise LimitExceeded(f"{self._key}: its {self._n} places are taken", max(1.0, self._wait))
            await asyncio.sleep(min(pause, left))
            pause = min(_CAP, pause * 1.5)
        return self

    async def __aexit__(self, *error: Any) -> None:
        keeps = keeper()
        keeps.places.pop(self._member, None)
        # What cannot be freed now lapses by itself.
        with suppress(BrokerError):
            await keeps.store.discard(self._key, [self._member])


class Both:
    """Several at once: ``async with a & b:``. Entered in this order, left together."""

    def __init__(self, parts: Sequence[Holding]) -> None:
        self._parts = parts

    def __and__(self, other: Holding) -> "Both":
        return Both([*self._parts, other])

    async def __aenter__(self) -> None:
        async with AsyncExitStack() as stack:
            for part in self._parts:
                await stack.enter_async_context(part)
            remember(stack.pop_all())

    async def __aexit__(self, *error: Any) -> None:
        await leave(*error)


_entered: ContextVar[tuple[Holding | AsyncExitStack, ...]] = ContextVar("taskq.entered", default=())
"""What the running asyncio task stands in by limits without a hold of their own, the innermost last."""


def remember(entered: Holding | AsyncExitStack) -> None:
    """``leave()`` in the same asyncio task will leave it."""
    _entered.set((*_entered.get(), entered))


async def leave(*error: Any) -> None:
    """Leave what was entered last."""
    *rest, entered = _entered.get()
    _entered.set(tuple(rest))
    await entered.__aexit__(*error)


def _parsed(retry_after: RetryAfter) -> tuple[float, float | None]:
    """Seconds from now, or a moment."""
    try:
        return seconds_or_moment(retry_after)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"retry_after={retry_after!r}: give seconds, a moment, or a Retry-After header") from error
