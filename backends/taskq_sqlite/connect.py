"""Open the file, bring its tables up to date, start the threads; end them when the context is left."""

import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import monotonic, sleep

from anyio import CancelScope

from taskq.broker import Backend, Extender, Traits
from taskq.store import Store
from taskq_sqlite import queries, settings
from taskq_sqlite.admin import SqliteAdmin
from taskq_sqlite.broker import SqliteBroker, SqliteExtender, SqliteResults, Steps
from taskq_sqlite.doctor import doctor
from taskq_sqlite.faults import is_busy, refuse_read_only, translating
from taskq_sqlite.hints import SqliteHints
from taskq_sqlite.lane import Lane
from taskq_sqlite.migrate import migrate
from taskq_sqlite.settings import Settings
from taskq_sqlite.store import SqliteStore
from taskq_sqlite.sweep import sweep
from taskq_sqlite.transactions import SqliteTransactions
from taskq_sqlite.watcher import Watcher

# Larger calls would hold the write lock longer than other processes should wait.
_BATCH = 1000


@asynccontextmanager
async def connect(url: str, **options: object) -> AsyncGenerator[Backend]:
    """A backend in an SQLite file, made when missing, shared with every process that opens it.

    ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``; see :class:`~taskq_sqlite.settings.Settings` for the
    options, in the query string or by keyword. The file may be the application's own: all tables are ``taskq_…``.
    """
    file, chosen = settings.read(url, options)
    path = str(file)
    sql = queries.load()
    opened = partial(open_connection, path, chosen)
    turn = threading.Lock()
    async with AsyncExitStack() as stack:

        async def entered(lane: Lane, stack: AsyncExitStack) -> Lane:
            with translating(path):
                await lane.open()
            stack.push_async_callback(_shielded, lane)
            return lane

        def first() -> sqlite3.Connection:
            connection = opened()
            refuse_read_only(path)
            migrate(connection, path)
            return connection

        writing = Lane(path, first, begin="BEGIN IMMEDIATE", turn=turn, sweep=partial(sweep, sql=sql))
        lane = await entered(writing, stack)
        reader = await entered(Lane(path, opened, begin="BEGIN", turn=threading.Lock()), stack)
        watcher = Watcher(opened, sql)
        watcher.open()
        stack.push_async_callback(_shielded, watcher)
        traits = Traits(
            durability=chosen.durability,
            idempotent=True,
            dedup_window=chosen.dedup_window,
            unique=True,
            ordered=True,
            groups=True,
            fair=True,
            exclusive=True,
            fenced=True,
            exact_attempts=True,
            max_size=chosen.max_size,
            max_batch=_BATCH,
        )
        steps = Steps(sql, chosen.max_size, chosen.dedup_window)

        @asynccontextmanager
        async def extender() -> AsyncGenerator[Extender]:
            async with AsyncExitStack() as stack:
                own = await entered(Lane(path, opened, begin="BEGIN IMMEDIATE", turn=turn), stack)
                yield SqliteExtender(steps, own, watcher)

        @asynccontextmanager
        async def open_store() -> AsyncGenerator[Store]:
            async with AsyncExitStack() as stack:
                own = await entered(Lane(path, opened, begin="BEGIN IMMEDIATE", turn=turn), stack)
                yield SqliteStore(sql, own, own)

        broker = SqliteBroker(traits, steps, lane, watcher)
        yield Backend(
            broker=broker,
            extender=extender,
            results=SqliteResults(sql, reader, watcher),
            hints=SqliteHints(sql, lane, reader, watcher),
            store=SqliteStore(sql, lane, reader),
            open_store=open_store,
            discard_and_settle=broker.discard_and_settle,
            transactions=SqliteTransactions(path, traits, steps, lane, watcher, opened),
            admin=SqliteAdmin(sql, lane, reader, watcher),
            doctor=doctor(file, chosen, reader),
            rouse=watcher.rouse,
        )


def open_connection(path: str, chosen: Settings) -> sqlite3.Connection:
    """A connection in autocommit mode: every transaction is said."""
    connection = sqlite3.connect(path, timeout=chosen.busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        _share(connection, chosen.busy_timeout)
        connection.execute(f"PRAGMA synchronous = {chosen.synchronous}")
    except BaseException:
        connection.close()
        raise
    return connection


def _share(connection: sqlite3.Connection, patience: float) -> None:
    """Turn on the write-ahead log, so that readers and one writer do not wait for each other."""
    until = monotonic() + patience
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            # This one change SQLite refuses without waiting when others open the file too.
            if not is_busy(error) or monotonic() > until:
                raise
            sleep(0.005)


async def _shielded(part: Lane | Watcher) -> None:
    with CancelScope(shield=True):
        await part.close()
