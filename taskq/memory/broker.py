"""The four verbs on one event loop: a clock, a lock, and the fetches that wait."""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from math import inf
from threading import Lock
from typing import TypeVar

from taskq.broker import Traits
from taskq.errors import BrokerUnavailable
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement
from taskq.memory.jobs import Jobs
from taskq.memory.row import Ref

T = TypeVar("T")


class _Waiter:
    """A fetch that found nothing yet."""

    __slots__ = ("future", "lease", "limit", "queues")

    def __init__(self, queues: Sequence[str], limit: int, lease: float, future: asyncio.Future[list[Delivery]]) -> None:
        self.queues = queues
        self.limit = limit
        self.lease = lease
        self.future = future


class MemoryBroker:
    """A broker in this process. ``extend`` may be called from any thread, the rest from the loop it was opened on."""

    def __init__(self, jobs: Jobs, traits: Traits, loop: asyncio.AbstractEventLoop) -> None:
        self._jobs = jobs
        self._traits = traits
        self._loop = loop
        self._lock = Lock()
        self._closed = False
        self._waiters: dict[_Waiter, None] = {}
        self._watchers: dict[Ref, set[asyncio.Future[None]]] = {}
        self._serving = False
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        with self._lock:
            now = self._now()
            answers = [self._jobs.enqueue(job, now) for job in jobs]
            self._wake()
        return answers

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> list[Delivery]:
        with self._lock:
            now = self._now()
            if self._waiters:
                self._serve_waiters(now)
            taken = self._jobs.lease(queues, limit, lease, now)
        if taken:
            return taken
        if wait <= 0:
            # A caller that asks again and again must not freeze the loop.
            await asyncio.sleep(0)
            return taken
        return await self._wait(queues, limit, lease, now + wait)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        with self._lock:
            now = self._now()
            rows = [self._jobs.settle(settlement, now) for settlement in settlements]
            if self._watchers:
                for row in rows:
                    if row is not None and row.ref not in self._jobs.live:
                        self._tell(row.ref)
            self._wake()
        return [row is not None for row in rows]

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        with self._lock:
            now = self._now()
            answers = [self._jobs.extend(receipt, lease, now) for receipt in receipts]
            self._wake(from_any_thread=True)
        return answers

    @contextmanager
    def changing(self) -> Generator[tuple[Jobs, float]]:
        """The jobs and the moment, for the other parts of the backend; what waits is woken at the end."""
        with self._lock:
            yield self._jobs, self._now()
            for ref in [ref for ref in self._watchers if self._jobs.outcome(ref) is not None]:
                self._tell(ref)
            self._wake()

    async def end_of(self, ref: Ref, wait: float) -> None:
        """Return when the job of this id ends, or after ``wait`` seconds."""
        future: asyncio.Future[None] = self._loop.create_future()
        watchers = self._watchers.setdefault(ref, set())
        watchers.add(future)
        timer = self._loop.call_later(wait, _resolve, future, None) if wait < inf else None
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            watchers.discard(future)
            if not watchers and self._watchers.get(ref) is watchers:
                del self._watchers[ref]

    def rouse(self) -> None:
        """End the fetches that wait."""
        with self._lock:
            for waiter in self._waiters:
                _resolve(waiter.future, [])

    def close(self) -> None:
        """End what waits; every later call raises."""
        with self._lock:
            self._closed = True
            for waiter in self._waiters:
                _resolve(waiter.future, [])
            for ref in list(self._watchers):
                self._tell(ref)
            if self._alarm is not None:
                self._alarm.cancel()

    def check(self) -> None:
        """Raise when the backend is closed."""
        if self._closed:
            raise BrokerUnavailable("this memory backend is closed, and its jobs are gone with it")

    def _now(self) -> float:
        self.check()
        now = self._loop.time()
        self._jobs.advance(now)
        return now

    async def _wait(self, queues: Sequence[str], limit: int, lease: float, until: float) -> list[Delivery]:
        future: asyncio.Future[list[Delivery]] = self._loop.create_future()
        waiter = _Waiter(queues, limit, lease, future)
        with self._lock:
            self._waiters[waiter] = None
            self._arm()
        nothing: list[Delivery] = []
        timer = self._loop.call_at(until, _resolve, future, nothing) if until < inf else None
        try:
            return await future
        except asyncio.CancelledError:
            # Served and cancelled in the same turn of the loop: nobody will ever see these deliveries.
            if future.done() and not future.cancelled():
                with self._lock:
                    self._jobs.give_back([delivery.receipt for delivery in future.result()], self._loop.time())
                    self._wake()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters.pop(waiter, None)

    def _wake(self, *, from_any_thread: bool = False) -> None:
        """Have the waiting fetches served in the loop's next turn: once, however many jobs this turn brings."""
        if not self._waiters or self._serving:
            return
        self._serving = True
        (self._loop.call_soon_threadsafe if from_any_thread else self._loop.call_soon)(self._serve)

    def _serve(self) -> None:
        with self._lock:
            self._serving = False
            if not self._closed:
                self._serve_waiters(self._now())
                self._arm()

    def _serve_waiters(self, now: float) -> None:
        """First come, first served."""
        for waiter in list(self._waiters):
            if waiter.future.done():
                continue
            if taken := self._jobs.lease(waiter.queues, waiter.limit, waiter.lease, now):
                del self._waiters[waiter]
                waiter.future.set_result(taken)

    def _arm(self) -> None:
        """While a fetch waits, wake up at the next due moment or lease end."""
        moment = self._jobs.next_moment() if self._waiters else inf
        if self._alarm is not None:
            if self._alarm.when() == moment and not self._alarm.cancelled():
                return
            self._alarm.cancel()
            self._alarm = None
        if moment < inf:
            self._alarm = self._loop.call_at(moment, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._serve()

    def _tell(self, ref: Ref) -> None:
        for future in self._watchers.pop(ref, ()):
            _resolve(future, None)


def _resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)
