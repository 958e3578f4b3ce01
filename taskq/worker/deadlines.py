"""One timer for all time-outs: it stands at the earliest moment, so a job that ends in time costs a comparison."""

import asyncio
from collections.abc import Iterable
from math import inf

from taskq.errors import JobTimeout
from taskq.outcome import Raised
from taskq.worker.run import Run

STOOD_STILL = 1.0
"""Seconds late: then the loop stood still, and heard nobody."""


class Deadlines:
    """Asks runs to stop, or to end, when their time is over."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs = runs
        """Everything that runs now; looked through only when the timer fires."""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._at = inf

    def watch(self, run: Run) -> None:
        """See to it that a run with time-outs, which begins now, is asked in time."""
        assert run.timeouts is not None and run.current is not None and run.started is not None  # noqa: S101, PT018
        if run.timeouts.run is not None:
            run.current.deadline = run.started + run.timeouts.run
        run.current.heard_at = run.started
        run.look_at = _ask(run, run.started)
        self._wait_until(run.look_at)

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait_until(self, moment: float) -> None:
        if moment < self._at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = moment
            self._timer = self._loop.call_at(moment, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time()
        stood_still = now - self._at > STOOD_STILL
        self._timer, self._at = None, inf
        for run in list(self._runs):
            if run.look_at <= now:
                if stood_still and run.current is not None:
                    run.current.heard_at = max(run.current.heard_at, now)
                run.look_at = _ask(run, now)
        self._wait_until(min((run.look_at for run in self._runs), default=inf))


def _ask(run: Run, now: float) -> float:
    """Ask of a run what its time-outs ask by now; the answer is when to look again."""
    times, current, began = run.timeouts, run.current, run.started
    if times is None or current is None or began is None or run.asked is not None:
        return inf
    end = inf if times.run is None else began + times.run
    # Who waits for a place to run in is not silent, and will be heard at the latest now.
    silent = inf if times.idle is None else min(current.heard, now) + times.idle
    if end <= now or silent <= now:
        said = f"ran past its time-out of {times.run:g} s" if end <= now else f"was silent for {times.idle:g} s"
        run.ask(Raised(JobTimeout(said)))
        return inf
    soft = inf if times.soft is None or current.stopping else began + times.soft
    if soft <= now:
        current.stop("its soft time-out is over")
        soft = inf
    return min(end, silent, soft)
