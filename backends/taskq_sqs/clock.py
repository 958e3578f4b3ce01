"""The service's clock, as its answers tell it."""

import time
from math import inf

_DRIFT = 2e-4
"""Of two clocks against each other, generously."""


class Clock:
    """Knows a moment that the service's clock has surely passed, and is never ahead of it.

    Every answer says when it was made: between question and answer. Of all that was said, what fits together is kept.
    """

    def __init__(self) -> None:
        self._low, self._high, self._at = -inf, inf, 0.0

    @property
    def known(self) -> bool:
        """Whether anything was said yet."""
        return self._low > -inf

    def tell(self, earliest: float, latest: float, *, asked: float, answered: float) -> None:
        """The service's clock stood between these two at some time between these two of :func:`time.monotonic`."""
        aged = (answered - self._at) * _DRIFT
        low, high = max(earliest - answered, self._low - aged), min(latest - asked, self._high + aged)
        if low > high:
            # One of the clocks was set.
            low, high = earliest - answered, latest - asked
        self._low, self._high, self._at = low, high, answered

    def now(self) -> float:
        """Seconds since the epoch, by the service's clock; this machine's while nothing is known."""
        return time.monotonic() + self._low if self.known else time.time()
