"""The few connections of a process: a statement at a time on each, opened when needed and held.

A pool of the driver's would reset each connection after each use, which costs a round trip.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import TypeAlias, TypeVar

import asyncpg
from anyio import CancelScope

from taskq.errors import BrokerRejected, BrokerUnavailable
from taskq_postgres.faults import DRIVER_ERRORS, translated
from taskq_postgres.settings import Address, Settings

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Work: TypeAlias = Callable[[Connection], Awaitable[T]]


async def open_connection(address: Address, settings: Settings, *, pooled: bool) -> Connection:
    """A connection that leaves nothing in the server's session when a pooler is in between."""
    opening = asyncio.ensure_future(
        asyncpg.connect(
            address.url,
            timeout=settings.connect_timeout,
            command_timeout=settings.command_timeout,
            statement_cache_size=0 if pooled else 100,
            # The functions count on it that each statement sees what was committed before it.
            server_settings=None if pooled else {"default_transaction_isolation": "read committed"},
        )
    )
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        # The driver leaves a future behind when its connecting is cancelled, and that complains when it is collected.
        opening.add_done_callback(_terminate)
        await asyncio.wait({opening})
        raise


def _terminate(opening: "asyncio.Future[Connection]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().terminate()


class Lanes:
    """Up to ``width`` connections; callers have their turn first come, first served."""

    def __init__(self, shown: str, opener: Callable[[], Awaitable[Connection]], width: int) -> None:
        self._shown = shown
        self._opener = opener
        self._free = width
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._under_way: set[asyncio.Task[object]] = set()
        self._closed = False
        self.chore: tuple[float, Work[bool]] | None = None
        """What is done beside the callers' work once in so many seconds, and again while it says that more is left."""
        self._next_chore = 0.0

    async def run(self, work: Work[T], *, abandoned: Callable[[T], None] | None = None) -> T:
        """Do this on a connection of its own.

        A caller's cancellation does not reach the server: what was begun ends, and ``abandoned`` gets its answer.
        """
        task = asyncio.ensure_future(self._carry_out(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda ended: _settle_abandoned(ended, abandoned))
            raise
        finally:
            self._do_chore()

    async def take(self) -> Connection:
        """A connection for the caller alone, to be given back by :meth:`give`."""
        self._check()
        if not self._free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._free += 1
                    self._call_next()
                raise
        else:
            self._free -= 1
        try:
            self._check()
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await self._opener()
        except BaseException:
            self._free += 1
            self._call_next()
            raise

    def give(self, connection: Connection) -> None:
        """Let the next caller have it; one that is closed, inside a transaction or on a standby is dropped."""
        if connection.is_closed() or self._closed or connection.is_in_transaction() or _takes_no_writes(connection):
            connection.terminate()
        else:
            self._idle.append(connection)
        self._free += 1
        self._call_next()

    async def settled(self) -> None:
        """Return when what is under way has ended."""
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        """What is under way ends; later calls raise BrokerUnavailable."""
        self._closed = True
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
                self._free -= 1
        await self.settled()
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.close(timeout=2)
            except DRIVER_ERRORS:
                connection.terminate()

    async def _carry_out(self, work: Work[T]) -> T:
        try:
            connection = await self.take()
            try:
                return await work(connection)
            except TimeoutError:
                # Its answer may still come, and would be taken for the next one's.
                connection.terminate()
                raise
            finally:
                self.give(connection)
        except DRIVER_ERRORS as error:
            raise translated(error, self._shown) from error

    def _call_next(self) -> None:
        while self._waiting and self._free:
            turn = self._waiting.popleft()
            if not turn.done():
                self._free -= 1
                turn.set_result(None)

    def _check(self) -> None:
        if self._closed:
            raise BrokerUnavailable(f"{self._shown}: this backend is closed")

    def _do_chore(self) -> None:
        if self.chore is None or self._closed or monotonic() < self._next_chore:
            return
        every, work = self.chore
        self._next_chore = monotonic() + every
        task = asyncio.ensure_future(self._carry_out(work))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(self._chore_done)

    def _chore_done(self, task: "asyncio.Task[bool]") -> None:
        if _forget(task):
            if task.result():
                self._next_chore = 0.0
        # Who has no right to it leaves it to others.
        elif isinstance(task.exception(), BrokerRejected):
            self.chore = None


class Beside:
    """One connection for each other event loop, for all that is opened in it."""

    def __init__(self, make: Callable[[], Lanes]) -> None:
        self._make = make
        self._open: dict[asyncio.AbstractEventLoop, tuple[Lanes, int]] = {}

    @asynccontextmanager
    async def lane(self) -> AsyncGenerator[Lanes]:
        """That of this loop; the last one to leave closes it."""
        loop = asyncio.get_running_loop()
        lane, users = self._open.get(loop) or (self._make(), 0)
        self._open[loop] = lane, users + 1
        try:
            yield lane
        finally:
            lane, users = self._open.pop(loop)
            if users > 1:
                self._open[loop] = lane, users - 1
            else:
                with CancelScope(shield=True):
                    await lane.close()


def _takes_no_writes(connection: Connection) -> bool:
    """Whether it leads to a standby, as servers tell unasked: the next one may lead to the primary."""
    return getattr(connection.get_settings(), "in_hot_standby", "off") == "on"


def _settle_abandoned(task: "asyncio.Task[T]", abandoned: Callable[[T], None] | None) -> None:
    if _forget(task) and abandoned is not None:
        abandoned(task.result())


def _forget(task: "asyncio.Task[T]") -> bool:
    """True for a task that ended well; a failure is nobody's."""
    return not task.cancelled() and task.exception() is None
