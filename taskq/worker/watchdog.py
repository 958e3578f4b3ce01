"""Notices that the worker's loop stands still, and says what it is busy with; and that its memory grows."""

import asyncio
import threading
import time
from collections.abc import Callable

import anyio
import anyio.to_thread

from taskq.events import Events, LoopStalled
from taskq.worker.memory import Growth, memory_of
from taskq.worker.run import Run
from taskq.worker.stacks import stack_of_thread


class Watchdog:
    """Looks at the loop from another thread: asks it to answer, and reports where it is when it does not."""

    def __init__(
        self,
        events: Events,
        *,
        running_in: Callable[[asyncio.Task[object] | None], Run | None],
        ended: Callable[[], int],
        warning: float,
        limit: float,
        growth: int,
    ) -> None:
        self._events = events
        self._running_in = running_in
        self._ended = ended
        """How many runs there have been."""
        self._growth = Growth(growth) if growth else None
        self._warning = warning
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._beaten = time.monotonic()
        self.lag = 0.0
        """Seconds the loop last took to answer."""
        self._stopped = threading.Event()
        self.begun = asyncio.Event()
        """Set once the watch has begun."""

    @property
    def stalled(self) -> float:
        """Seconds since the loop was last seen turning."""
        return time.monotonic() - self._beaten

    def within_limit(self) -> bool:
        """False once the loop has stood still for the limit."""
        return self.stalled < self._limit

    async def run_in_thread(self) -> None:
        """Watch until stopped, from a thread of its own."""
        await anyio.to_thread.run_sync(self._watch, limiter=anyio.CapacityLimiter(1))

    def stop(self) -> None:
        """End the watch."""
        self._stopped.set()

    def _watch(self) -> None:
        report_at = self._warning
        self._beat(time.monotonic())
        self._loop.call_soon_threadsafe(self.begun.set)
        while not self._stopped.wait(self._warning / 2):
            if self.stalled >= report_at:
                self._events.emit(self._where())
                report_at *= 2
            elif self.stalled < self._warning:
                report_at = self._warning
            if self._growth is not None:
                self._weigh(self._growth)
            try:
                self._loop.call_soon_threadsafe(self._beat, time.monotonic())
            except RuntimeError:
                return  # The loop is closed: nobody is left to watch.

    def _weigh(self, growth: Growth) -> None:
        found = growth.note(self._ended(), memory_of("self"))
        if found is not None:
            self._events.emit(found)

    def _beat(self, asked: float) -> None:
        self._beaten = time.monotonic()
        self.lag = self._beaten - asked

    def _where(self) -> LoopStalled:
        stack = stack_of_thread(self._thread)
        run = self._running_in(asyncio.current_task(self._loop))
        job = run.delivery.job if run is not None else None
        return LoopStalled(
            seconds=self.stalled, id=job.id if job else None, task=job.task if job else None, stack=stack
        )
