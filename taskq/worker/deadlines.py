"""One timer for all time-outs: it stands at the earliest deadline, so a job that ends in time costs a comparison."""

import asyncio
from collections.abc import Iterable
from math import inf

from taskq.worker.runner import Run


class Deadlines:
    """Asks runs to end when their time is over."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs = runs
        """Everything that runs now; looked through only when the timer fires."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._at = inf

    def watch(self, deadline: float) -> None:
        """See to it that the run with this deadline (by the loop's clock) is asked in time."""
        if deadline < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = deadline
            self._timer = self._loop.call_at(deadline, self._sweep)

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        now = self._loop.time()
        self._timer, self._at = None, inf
        following = inf
        for run in list(self._runs):
            if run.deadline is None:
                continue
            if run.deadline <= now:
                run.ask_timeout()
            else:
                following = min(following, run.deadline)
        if following < inf:
            self.watch(following)
