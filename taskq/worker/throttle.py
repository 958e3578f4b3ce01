"""Fewer jobs at once while the event loop lags, and more again when it does not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

PERIOD = 0.5
"""Seconds between two changes."""
NAPS = 10
"""In each period: how late the loop wakes from them on average is its lag."""
KEPT = 0.75
"""What is left of the slots after a period with too much lag."""
STEPS = 20
"""Periods without lag in which slots come back from none to all."""


class Throttled(Protocol):
    """A pool, as far as it can be throttled."""

    @property
    def most(self) -> int:
        """The slots it was given."""
        ...

    @property
    def limit(self) -> int:
        """Those it uses."""
        ...

    def use(self, slots: int) -> None:
        """Use so many from now on; what runs beyond that goes on."""
        ...


async def loop_lag() -> float:
    """Seconds by which the loop was late during a period, on average."""
    loop, late = asyncio.get_running_loop(), 0.0
    for _ in range(NAPS):
        due = loop.time() + PERIOD / NAPS
        await asyncio.sleep(PERIOD / NAPS)
        late += loop.time() - due
    return late / NAPS


def next_limit(limit: int, lag: float, *, target: float, least: int, most: int) -> int:
    """How many slots to use after a period with this lag: fewer beyond the target, more below half of it."""
    if lag > target:
        return max(min(least, most), int(limit * KEPT))
    if lag < target / 2:
        return min(most, limit + max(1, most // STEPS))
    return min(most, limit)


class Throttle:
    """Keeps the lag of a worker's loop near a target, by the slots that its pools use."""

    def __init__(
        self,
        pools: Sequence[Throttled],
        *,
        target: float,
        least: int,
        lag: Callable[[], Awaitable[float]] = loop_lag,
    ) -> None:
        self._pools = pools
        self._target = target
        self._least = least
        """Slots that each pool keeps, if it has as many."""
        self._lag = lag
        """The lag of the period that is over when it answers."""

    async def run(self) -> None:
        """Measure and change until cancelled."""
        while True:
            lag = await self._lag()
            for pool in self._pools:
                limit = next_limit(pool.limit, lag, target=self._target, least=self._least, most=pool.most)
                if limit != pool.limit:
                    pool.use(limit)
