"""What waits, and who wakes it: this process at once, a thread when another process has written."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from time import time

from taskq.broker import Hint
from taskq_sqlite.fetch import upcoming
from taskq_sqlite.queries import Queries

Ref = tuple[str, str]
"""A queue and an id."""

# SQLite tells nobody of another process's commit. A hundred ticks a second are 0.6 % of a core, nearly all of it the
# thread's waking up (the look at the file costs 2 µs), and a job of another process waits 5 ms on average.
_TICK = 0.010
# A listener this far behind is not listening; hints may be lost.
_UNREAD = 1000


class Wish:
    """A fetch that waits for a job of its queues."""

    __slots__ = ("moment", "queues", "woken")

    def __init__(self, queues: Sequence[str]) -> None:
        self.queues = queues
        self.moment: float | None = None
        """When it will look again by itself."""
        self.woken = asyncio.Event()


class Subscription:
    """Hints on their way to one listener; None ends them."""

    __slots__ = ("channels", "hints", "last")

    def __init__(self, channels: Sequence[str], last: int) -> None:
        self.channels = frozenset(channels)
        self.last = last
        """The number of the newest hint seen."""
        self.hints: asyncio.Queue[Hint | None] = asyncio.Queue()

    def put(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            if self.hints.qsize() < _UNREAD:
                self.hints.put_nowait(hint)


class Watcher:
    """The event loop registers what waits; the thread polls the file only while something does."""

    def __init__(self, open_connection: Callable[[], sqlite3.Connection], sql: Queries) -> None:
        self._open_connection = open_connection
        self._sql = sql
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._wishes: dict[Wish, None] = {}
        self._outcomes: dict[Ref, set[asyncio.Future[bytes | None]]] = {}
        self._subscriptions: dict[Subscription, None] = {}
        self._calls: SimpleQueue[bool] = SimpleQueue()
        """True: look now; False: end."""
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, name="taskq-sqlite-watcher", daemon=True)
        self.closed = False
        self.roused = 0
        """How often waits were to end: one that began before the last time has to."""

    # On the event loop

    def open(self) -> None:
        self._thread.start()

    async def close(self) -> None:
        """Wake everything that waits, then end the thread."""
        self.closed = True
        for wish in self._wishes:
            wish.woken.set()
        for ref in list(self._outcomes):
            self.tell(ref, None)
        for subscription in self._subscriptions:
            subscription.hints.put_nowait(None)
        self._calls.put(False)
        await self._ended
        self._thread.join()

    def look(self) -> None:
        """Find out now what has changed in the file. May be called from any thread."""
        self._calls.put(True)

    def rouse(self) -> None:
        """End the fetches that wait."""
        self.roused += 1
        for wish in self._wishes:
            wish.woken.set()

    def wake(self, queues: set[str]) -> None:
        """Let the fetches that wait for one of the queues look again."""
        for wish in self._wishes:
            if not queues.isdisjoint(wish.queues):
                wish.woken.set()

    @contextmanager
    def wishing(self, queues: Sequence[str]) -> Generator[Wish]:
        wish = Wish(queues)
        with self._lock:
            self._wishes[wish] = None
        self.look()
        try:
            yield wish
        finally:
            with self._lock:
                del self._wishes[wish]
            self._rest()

    @contextmanager
    def awaiting(self, ref: Ref) -> Generator[asyncio.Future[bytes | None]]:
        """A future that gets the outcome of the job when it ends."""
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        with self._lock:
            self._outcomes.setdefault(ref, set()).add(future)
        self.look()
        try:
            yield future
        finally:
            with self._lock:
                waiting = self._outcomes[ref]
                waiting.discard(future)
                if not waiting:
                    del self._outcomes[ref]
            self._rest()

    def tell(self, ref: Ref, outcome: bytes | None) -> None:
        """The job has ended."""
        for future in self._outcomes.get(ref, ()):
            if not future.done():
                future.set_result(outcome)

    @contextmanager
    def listening(self, channels: Sequence[str], last: int) -> Generator[Subscription]:
        subscription = Subscription(channels, last)
        with self._lock:
            self._subscriptions[subscription] = None
        self.look()
        try:
            yield subscription
        finally:
            with self._lock:
                del self._subscriptions[subscription]
            self._rest()

    def _rest(self) -> None:
        """Let the thread find out that nothing waits any more."""
        if not self._anything_waits():
            self.look()

    # In the thread

    def _serve(self) -> None:
        connection: sqlite3.Connection | None = None
        goes_on = self._calls.get()
        while goes_on:
            if not self._anything_waits():
                goes_on = self._calls.get()
                continue
            try:
                connection = connection or self._open_connection()
                goes_on = self._look_and_wait(connection.cursor())
            except sqlite3.Error:
                # It may succeed at the next tick; those who wait for jobs have timers of their own.
                goes_on = self._called() is not False
        if connection is not None:
            connection.close()
        self._tell(self._ended.set_result, None)

    def _look_and_wait(self, cursor: sqlite3.Cursor) -> bool:
        """Look, and return when there may be something new to see; false when the end has come."""
        seen = _version(cursor)
        self._look_at(cursor)
        called = self._called()
        while called is None and _version(cursor) == seen:
            called = self._called()
        return called is not False

    def _called(self) -> bool | None:
        """What was asked for within a tick, if anything; any number of calls are one."""
        called: bool | None = None
        with suppress(Empty):
            called = self._calls.get(timeout=_TICK)
            while called:
                called = self._calls.get_nowait()
        return called

    def _anything_waits(self) -> bool:
        return bool(self._wishes or self._outcomes or self._subscriptions)

    def _look_at(self, cursor: sqlite3.Cursor) -> None:
        with self._lock:
            wishes, refs = list(self._wishes), list(self._outcomes)
            subscriptions = list(self._subscriptions)
        self._look_for_jobs(cursor, wishes)
        self._look_for_outcomes(cursor, refs)
        self._look_for_hints(cursor, subscriptions)

    def _look_for_jobs(self, cursor: sqlite3.Cursor, wishes: Sequence[Wish]) -> None:
        for wish in wishes:
            moment = upcoming(cursor, self._sql, wish.queues)
            if moment is not None and (wish.moment is None or moment < wish.moment):
                self._tell(wish.woken.set)

    def _look_for_outcomes(self, cursor: sqlite3.Cursor, refs: Sequence[Ref]) -> None:
        now = time()
        for ref in refs:
            named = {"queue": ref[0], "id": ref[1], "now": now}
            found = cursor.execute(self._sql.outcome, named).fetchall()
            if found:
                self._tell(self.tell, ref, found[0][0])

    def _look_for_hints(self, cursor: sqlite3.Cursor, subscriptions: Sequence[Subscription]) -> None:
        if not subscriptions:
            return
        last = min(subscription.last for subscription in subscriptions)
        found = cursor.execute(self._sql.hints, (last,)).fetchall()
        for subscription in subscriptions:
            hints = [
                Hint(channel, data)
                for seq, channel, data in found
                if seq > subscription.last and channel in subscription.channels
            ]
            if found:
                subscription.last = max(subscription.last, found[-1][0])
            if hints:
                self._tell(subscription.put, hints)

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        # The loop is closed when its program ended without leaving connect(): then nobody listens.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)


def _version(cursor: sqlite3.Cursor) -> int:
    """A number that differs from the last one when another connection has committed meanwhile."""
    version: int = cursor.execute("PRAGMA data_version").fetchone()[0]
    return version
