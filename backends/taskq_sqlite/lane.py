"""A thread with a connection of its own: what gathered during its last transaction shares the next."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Generic, TypeVar

from anyio import CancelScope

from taskq.errors import BrokerRejected, BrokerUnavailable
from taskq_sqlite.faults import DRIVER_ERRORS, is_busy, translated

T = TypeVar("T")
Step = Callable[[sqlite3.Cursor], T]
"""What one caller wants done; may be done again from the start when its transaction failed for another's sake."""

# A longer transaction would make the fetches of other processes wait; a commit's share is small long before.
_SHARED = 1000
# What has lapsed is looked for this often, in seconds: readers pass over it, so only its space waits.
_SWEEP = 1.0


class _Request(Generic[T]):
    __slots__ = ("abandoned", "alone", "answer", "error", "future", "step")

    def __init__(
        self, step: Step[T], future: asyncio.Future[T], alone: bool, abandoned: Callable[[T], object] | None
    ) -> None:
        self.step = step
        self.future = future
        self.alone = alone
        self.abandoned = abandoned
        self.answer: T
        self.error: Exception | None = None

    def run(self, cursor: sqlite3.Cursor) -> None:
        self.answer = self.step(cursor)

    def deliver(self) -> None:
        if self.future.cancelled():
            if self.abandoned is not None and self.error is None:
                self.abandoned(self.answer)
        elif not self.future.done():
            if self.error is None:
                self.future.set_result(self.answer)
            else:
                self.future.set_exception(self.error)


class _Loan:
    __slots__ = ("is_open", "lane")

    def __init__(self, lane: "Lane") -> None:
        self.lane = lane
        self.is_open = True


_loan: ContextVar[_Loan | None] = ContextVar("taskq_sqlite_loan", default=None)


class Lane:
    """Runs steps in transactions, many callers' steps in one.

    A writing lane holds ``turn`` while it writes, so that the lanes of a process wait for each other instead of
    failing after ``busy_timeout``; ``begin`` is the statement that opens its transactions.
    """

    def __init__(
        self,
        path: str,
        open_connection: Callable[[], sqlite3.Connection],
        *,
        begin: str,
        turn: threading.Lock,
        sweep: Callable[[sqlite3.Cursor], bool] | None = None,
    ) -> None:
        self._path = path
        self._open_connection = open_connection
        self._begin = begin
        self._turn = turn
        self._sweep = sweep
        """Removes some of what has lapsed; true when there may be more."""
        self._requests: SimpleQueue[_Request[object] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name="taskq-sqlite", daemon=True)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._closed = False

    async def open(self) -> None:
        """Raises the driver's error when the file cannot be opened; then nothing is left to close."""
        self._thread.start()
        try:
            await asyncio.shield(self._opened)
        except BaseException:
            with CancelScope(shield=True):
                await self.close()
            raise

    async def close(self) -> None:
        """Carry out what was asked for before, then end the thread."""
        self._closed = True
        self._requests.put(None)
        await self._ended
        self._thread.join()

    async def run(self, step: Step[T], *, alone: bool = False, abandoned: Callable[[T], object] | None = None) -> T:
        """The step's answer, once its transaction is committed.

        A step that is to be ``alone`` gets the turn and no transaction: it brings its own.
        ``abandoned`` gets the answer on the event loop when the caller was cancelled before it came.
        """
        if self._closed:
            raise BrokerUnavailable(f"{self._path}: this backend is closed")
        loan = _loan.get()
        if loan is not None and loan.is_open and loan.lane is self:
            raise BrokerRejected(f"{self._path}: a transaction is open here; write by join(connection) instead")
        future: asyncio.Future[T] = self._loop.create_future()
        self._requests.put(_Request(step, future, alone, abandoned))  # type: ignore[arg-type]  # the answer goes to its own future
        return await future

    @contextmanager
    def lent(self) -> Generator[None]:
        """While a transaction from begin() is open in this context, what would wait for its end is refused."""
        loan = _Loan(self)
        _loan.set(loan)
        try:
            yield
        finally:
            loan.is_open = False

    # In the thread

    def _serve(self) -> None:
        try:
            connection = self._open_connection()
        except Exception as error:  # noqa: BLE001  # it belongs to whoever opens the lane
            self._tell(self._end_opening, error)
        else:
            self._tell(self._end_opening, None)
            try:
                self._serve_from(connection.cursor())
            finally:
                connection.close()
        self._tell(self._ended.set_result, None)

    def _serve_from(self, cursor: sqlite3.Cursor) -> None:
        open_ended = True
        while open_ended:
            batch, open_ended = self._gather(cursor)
            # Cancelled before it began: nobody waits for it, and a fetch would withhold its jobs.
            batch = [request for request in batch if not request.future.cancelled()]
            self._transact(cursor, [request for request in batch if not request.alone])
            for request in batch:
                if request.alone:
                    self._attempt([request], partial(self._alone, cursor, request.run))

    def _end_opening(self, error: Exception | None) -> None:
        if error is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)

    def _tell(self, callback: Callable[[T], object], argument: T) -> None:
        # The loop is closed when its program ended without leaving connect(): then nobody listens.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, argument)

    def _gather(self, cursor: sqlite3.Cursor) -> tuple[list[_Request[object]], bool]:
        """What waits now, or what comes next; false when it is the last."""
        request = self._next(cursor)
        batch: list[_Request[object]] = []
        with suppress(Empty):
            while request is not None:
                batch.append(request)
                if len(batch) >= _SHARED:
                    return batch, True
                request = self._requests.get_nowait()
            return batch, False
        return batch, True

    def _next(self, cursor: sqlite3.Cursor) -> _Request[object] | None:
        if self._sweep is None:
            return self._requests.get()
        while True:
            left = self._sweep_at - monotonic()
            if left > 0:
                with suppress(Empty):
                    return self._requests.get(timeout=left)
            self._sweep_at = monotonic() + (0.0 if self._swept(cursor) else _SWEEP)
            with suppress(Empty):
                return self._requests.get_nowait()

    _sweep_at = 0.0

    def _swept(self, cursor: sqlite3.Cursor) -> bool:
        more = False

        def sweep(cursor: sqlite3.Cursor) -> None:
            nonlocal more
            more = self._sweep is not None and self._sweep(cursor)

        # A busy or full file is found out by those who asked for something; the next sweep tries again.
        with suppress(sqlite3.Error):
            self._together(cursor, [sweep])
        return more

    def _transact(self, cursor: sqlite3.Cursor, batch: list[_Request[object]]) -> None:
        """All in one transaction; when that fails each in its own, so that one does not take the others with it.

        Failing is rare, so this costs the batches that succeed nothing: a savepoint each would.
        """
        if batch and not self._attempt(batch, partial(self._together, cursor, [request.run for request in batch])):
            for request in batch:
                self._attempt([request], partial(self._together, cursor, [request.run]))

    def _attempt(self, batch: list[_Request[object]], act: Callable[[], None]) -> bool:
        """Act and answer the callers; false when each of them should have an attempt of its own instead."""
        try:
            act()
        except Exception as error:  # noqa: BLE001  # it belongs to the caller that waits for the answer
            # Without the write lock none will fare better alone.
            if len(batch) > 1 and not (isinstance(error, sqlite3.Error) and is_busy(error)):
                return False
            found = translated(error, self._path) if isinstance(error, DRIVER_ERRORS) else error
            for request in batch:
                request.error = found
        self._tell(_deliver, batch)
        return True

    def _alone(self, cursor: sqlite3.Cursor, step: Callable[[sqlite3.Cursor], None]) -> None:
        with self._turn:
            step(cursor)

    def _together(self, cursor: sqlite3.Cursor, steps: list[Callable[[sqlite3.Cursor], None]]) -> None:
        with self._turn:
            cursor.execute(self._begin)
            try:
                for step in steps:
                    step(cursor)
                cursor.execute("COMMIT")
            except BaseException:
                # SQLite may have rolled back by itself, after a full disk for one.
                if cursor.connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise


def _deliver(batch: list[_Request[object]]) -> None:
    for request in batch:
        request.deliver()
