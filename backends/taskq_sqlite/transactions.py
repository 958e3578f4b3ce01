"""Part-taking in transactions: on the caller's own connection, or on one that this backend lends."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue

from anyio import CancelScope

from taskq.broker import Traits
from taskq.errors import BrokerRejected, ConfigError
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement
from taskq_sqlite.broker import Steps
from taskq_sqlite.faults import translating
from taskq_sqlite.lane import Lane
from taskq_sqlite.watcher import Watcher


class JoinedBroker:
    """Enqueues and settles with the commit of the caller's transaction, in the calling thread."""

    def __init__(self, connection: sqlite3.Connection, path: str, traits: Traits, steps: Steps) -> None:
        self._connection = connection
        self._path = path
        self._traits = traits
        self._steps = steps

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        with translating(self._path):
            return self._steps.enqueue(self._cursor(), jobs)

    async def fetch(  # the protocol names the arguments
        self,
        queues: Sequence[str],  # noqa: ARG002
        limit: int,  # noqa: ARG002
        *,
        lease: float,  # noqa: ARG002
        wait: float,  # noqa: ARG002
    ) -> list[Delivery]:
        raise BrokerRejected("a fetch takes no part in a transaction: fetch from the backend's own broker")

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        with translating(self._path):
            return [settled is not None for settled in self._steps.settle(self._cursor(), settlements)]

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:  # noqa: ARG002  # as above
        raise BrokerRejected("an extension takes no part in a transaction: extend by the backend's own broker")

    def _cursor(self) -> sqlite3.Cursor:
        if not self._connection.in_transaction:
            if self._connection.isolation_level is None:
                raise BrokerRejected("the connection is in autocommit mode: execute BEGIN IMMEDIATE on it first")
            self._connection.execute("BEGIN IMMEDIATE")
        cursor = self._connection.cursor()
        # The statements count on plain tuples, whatever the application likes for its own.
        cursor.row_factory = None
        return cursor


class SqliteTransactions:
    """Transactions of the stdlib's ``sqlite3`` on the database file."""

    def __init__(
        self,
        path: str,
        traits: Traits,
        steps: Steps,
        lane: Lane,
        watcher: Watcher,
        open_connection: Callable[[], sqlite3.Connection],
    ) -> None:
        self._path = path
        self._traits = traits
        self._steps = steps
        self._lane = lane
        self._watcher = watcher
        self._open_connection = open_connection

    def join(self, connection: object) -> JoinedBroker:
        """A broker on a ``sqlite3.Connection`` to the same file; what waits sees the commit within a tick."""
        remedy = f"join() takes a sqlite3.Connection to {self._path}"
        if not isinstance(connection, sqlite3.Connection):
            raise ConfigError(f"{remedy}, not a {type(connection).__qualname__}")
        with translating(self._path):
            cursor = connection.cursor()
            cursor.row_factory = None
            files = {name: file for _, name, file in cursor.execute("PRAGMA database_list")}
        if not files.get("main") or not Path(files["main"]).samefile(self._path):
            raise ConfigError(f"{remedy}, not to {files.get('main') or 'a database in memory'}")
        return JoinedBroker(connection, self._path, self._traits, self._steps)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[sqlite3.Connection]:
        """A connection inside ``BEGIN IMMEDIATE``, one at a time.

        The process's other writes wait until it ends, and those of other processes up to their ``busy_timeout``:
        be brief. A write by the backend's own parts, awaited inside, would wait for ever: it raises BrokerRejected.
        """
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[sqlite3.Connection] = loop.create_future()
        verdict: SimpleQueue[bool] = SimpleQueue()

        def step(_: sqlite3.Cursor) -> None:
            connection = self._open_connection()
            try:
                connection.execute("BEGIN IMMEDIATE")
                loop.call_soon_threadsafe(_grant, granted, connection)
                ending = "COMMIT" if verdict.get() else "ROLLBACK"
                if ending == "COMMIT" or connection.in_transaction:
                    connection.execute(ending)
            finally:
                connection.close()

        ended = asyncio.ensure_future(self._lane.run(step, alone=True))
        commits = False
        try:
            await asyncio.wait((granted, ended), return_when=asyncio.FIRST_COMPLETED)
            if granted.done():
                with self._lane.lent():
                    yield granted.result()
                commits = True
        finally:
            verdict.put(commits)
            if granted.done():
                # The caller goes on when the transaction has ended, whatever cancelled it.
                with CancelScope(shield=True):
                    await ended
                self._watcher.look()
            elif not ended.cancel():
                # It ended before it began: this raises why.
                ended.result()


def _grant(granted: "asyncio.Future[sqlite3.Connection]", connection: sqlite3.Connection) -> None:
    if not granted.cancelled():
        granted.set_result(connection)
