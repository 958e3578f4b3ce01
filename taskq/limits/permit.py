"""Limits inside a handler: a permit of a rate limit, a place of a concurrency limit."""

import asyncio
import os
from math import inf
from typing import Any, Self, TypeVar

from taskq.context import running
from taskq.errors import ConfigError, LimitExceeded
from taskq.limits.holding import CAP, FIRST, Granted, Holding, Refused
from taskq.limits.keeper import keeper
from taskq.limits.line import Answer, Asked
from taskq.limits.rates import Leaky, Rate
from taskq.limits.several import Both, Either
from taskq.retryafter import RetryAfter, seconds_or_moment

T = TypeVar("T")


class Permit:
    """To begin once. Entering waits up to ``wait`` seconds for its turn, and raises LimitExceeded if that is later."""

    def __init__(self, rate: Rate, key: str, *, cost: float, wait: float, recover: float) -> None:
        if not 0 <= cost <= rate.most:
            raise ConfigError(f"cost={cost!r}: this limit grants at most {rate.most:g} at once")
        self._rate = rate
        self._key = key
        self._cost = cost
        self.wait = wait
        self._recover = recover
        self._moment: float | None = None
        """When it was granted, by the server's clock."""

    async def soon(self) -> float:
        """In how many seconds its turn comes; nothing is taken."""
        return (await self._ask(Asked(self._cost, looks=True))).wait

    async def claim(self, patience: float) -> Granted["Permit"] | Refused:
        """Take it if its turn comes within so many seconds."""
        answer = await self._ask(Asked(self._cost, patience))
        if answer.granted:
            self._moment = answer.moment
            return Granted(self, [self], answer.wait)
        return Refused(f"{self._key}: its turn comes in {answer.wait:.3g} s", answer.wait, self._key)

    async def _ask(self, asked: Asked) -> Answer:
        return await keeper().ask(self._rate, self._key, asked) if self._rate.most < inf else Answer(True, 0.0)

    async def enter(self) -> Granted["Permit"]:
        """Wait for its turn; raises LimitExceeded."""
        claimed = await self.claim(self.wait)
        if isinstance(claimed, Refused):
            keeper().refuse(self._key, claimed.after)
            raise LimitExceeded(claimed.reason, claimed.after)
        if claimed.wait > 0:
            await asyncio.sleep(claimed.wait)
        return claimed

    async def leave(self) -> None:
        """A permit is used up by entering."""

    async def undo(self) -> None:
        """Give it back, unused."""
        if self._moment is not None:
            await keeper().give_back(self._rate, self._key, self._moment, self._cost)

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.leave()

    def __and__(self, other: Holding[object]) -> Both:
        return Both([self, other])

    def __or__(self, other: Holding[T]) -> "Either[Permit | T]":
        return Either([self, other])

    async def settle(self, cost: float) -> None:
        """Say what it really cost; the limit goes by that from now on. For the kinds leaky and points."""
        if not isinstance(self._rate, Leaky):
            raise ConfigError("only a limit of kind points or leaky can be told what a call cost in the end")
        await keeper().add(self._rate, self._key, cost - self._cost)
        self._cost = cost

    async def pause(self, retry_after: RetryAfter) -> None:
        """Grant nothing for so many seconds, until this moment, or as a ``Retry-After`` header says."""
        seconds, until = _parsed(retry_after)
        await keeper().pause(self._rate, self._key, until, seconds, self._recover)


class Place:
    """One of ``n``, renewed with the job's lease. Entering waits up to ``wait`` seconds, then raises LimitExceeded.

    It belongs to this one run: no other can free it, and when its worker dies it is free when the lease is over.
    """

    def __init__(self, key: str, n: int, wait: float) -> None:
        self._key = key
        self._n = n
        self.wait = wait
        current = running.get(None)
        holder = os.urandom(8).hex() if current is None else current.delivery.receipt
        self._member = f"{holder}/{os.urandom(8).hex()}"
        self._asked_at: float | None = None

    async def soon(self) -> float | None:
        """0 when a place is free; nobody knows when one frees."""
        return 0.0 if await keeper().has_room(self._key, self._n) else None

    async def claim(self, patience: float) -> Granted["Place"] | Refused:  # noqa: ARG002 - nobody knows when
        """Take one, if one is free now."""
        keeps, now = keeper(), asyncio.get_running_loop().time()
        self._asked_at = now if self._asked_at is None else self._asked_at
        if await keeps.take(self._key, self._member, self._n):
            keeps.took(self._key, self._member, now - self._asked_at)
            return Granted(self, [self])
        return Refused(f"{self._key}: its {self._n} places are taken", FIRST, self._key)

    def __and__(self, other: Holding[object]) -> Both:
        return Both([self, other])

    def __or__(self, other: Holding[T]) -> "Either[Place | T]":
        return Either([self, other])

    async def enter(self) -> Granted["Place"]:
        """Wait for a place; raises LimitExceeded."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self.wait, FIRST
        while isinstance(claimed := await self.claim(0.0), Refused):
            left = until - loop.time()
            if left <= 0:
                keeper().refuse(self._key, claimed.after)
                raise LimitExceeded(claimed.reason, max(1.0, self.wait))
            await asyncio.sleep(min(pause, left))
            pause = min(CAP, pause * 1.5)
        return claimed

    async def leave(self) -> None:
        """Free it."""
        await keeper().leave(self._key, self._member)

    undo = leave

    async def __aenter__(self) -> Self:
        await self.enter()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.leave()


def _parsed(retry_after: RetryAfter) -> tuple[float, float | None]:
    """Seconds from now, or a moment."""
    try:
        return seconds_or_moment(retry_after)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"retry_after={retry_after!r}: give seconds, a moment, or a Retry-After header") from error
