"""Whether the broker answers: one event when it goes, one when it returns, and the waiting in between."""

import random
import time

import anyio

from taskq.errors import BrokerError
from taskq.events import BrokerLost, BrokerRegained, Events
from taskq.pools import DEFAULT

_FIRST, _CAP = 0.05, 2.0
"""Seconds: a restart of a second is slept through in a few tries, and after a long outage a worker is back in two."""


class Contact:
    """Shared by the stations of one worker that talk to one broker."""

    def __init__(self, events: Events, broker: str = DEFAULT) -> None:
        self._events = events
        self._broker = broker
        self._lost_at: float | None = None
        self._failures = 0

    @property
    def lost(self) -> bool:
        """True between the first failure and the next success."""
        return self._lost_at is not None

    @property
    def lost_for(self) -> float:
        """Seconds since the first failure; 0.0 while the broker answers."""
        return 0.0 if self._lost_at is None else time.monotonic() - self._lost_at

    def fail(self, error: BrokerError) -> None:
        """A call failed."""
        self._failures += 1
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._events.emit(BrokerLost(error=error, broker=self._broker))

    def succeed(self) -> None:
        """A call was answered."""
        if self._lost_at is not None:
            self._events.emit(BrokerRegained(seconds=time.monotonic() - self._lost_at, broker=self._broker))
            self._lost_at, self._failures = None, 0

    async def back_off(self) -> None:
        """Wait before the next try: longer after every failure, and never as long as the others."""
        await anyio.sleep(random.uniform(0.5, 1.0) * min(_CAP, _FIRST * 2 ** min(self._failures, 10)))  # noqa: S311
