"""Look at the server, check its schema, open the few connections; end them when the context is left."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from anyio import CancelScope
from msgspec import Struct

from taskq.broker import Backend, Durability, Extender, Finding, Traits
from taskq.errors import BrokerRejected, ConfigError
from taskq.store import Store
from taskq_postgres import budget, migrate, queries, settings
from taskq_postgres.admin import PostgresAdmin
from taskq_postgres.broker import PostgresBroker, PostgresExtender, PostgresResults
from taskq_postgres.doctor import OLDEST, ask, doctor, pooler
from taskq_postgres.faults import translating
from taskq_postgres.hints import PostgresHints
from taskq_postgres.lanes import Beside, Connection, Lanes, open_connection
from taskq_postgres.lineage import Lineage
from taskq_postgres.settings import Address, Settings
from taskq_postgres.store import PostgresStore
from taskq_postgres.transactions import PostgresTransactions
from taskq_postgres.verbs import Verbs
from taskq_postgres.watcher import Watcher

# Larger statements would hold their locks longer than others should wait.
_BATCH = 1000
# At a few µs a row a portion keeps others waiting for some milliseconds at most.
_PORTION = 1000
_SWEEP = 1.0
_log = logging.getLogger("taskq.postgres")


class Deployment(Struct, frozen=True):
    """What the server at this address turned out to be."""

    pooled: bool
    durability: Durability
    clock: Finding


@asynccontextmanager
async def connect(url: str, **options: object) -> AsyncGenerator[Backend]:
    """A backend in a PostgreSQL database, in a schema of its own, shared with every process that opens it.

    ``postgresql://user@host/database``; see :class:`~taskq_postgres.settings.Settings` for the options, in the query
    string or by keyword. At most ``connections`` + 3 are open at a time, whatever the worker's slots; raises
    BrokerUnavailable when the server has not as many as a worker holds.
    """
    address, chosen = settings.read(url, options)
    sql = queries.load(chosen.schema)
    with translating(address.shown):
        found = await _look(address, chosen, sql.deployment)
    opener = Lineage(partial(open_connection, address, chosen, pooled=found.pooled), sql.timeline).open
    traits = Traits(
        durability=found.durability,
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
    verbs = Verbs(sql, chosen.max_size, chosen.dedup_window)
    lanes = Lanes(address.shown, opener, chosen.connections)

    async def sweep(connection: Connection) -> bool:
        """Whether there may be more of what has lapsed."""
        swept: int = await connection.fetchval(sql.sweep, _PORTION)
        return swept >= _PORTION

    lanes.chore = (_SWEEP, sweep)
    lent = Lanes(address.shown, opener, 1)
    listening: Callable[[], Awaitable[Connection]] | None = None
    if chosen.listen_url is not None:
        direct = Address(chosen.listen_url, address.shown)
        listening = partial(open_connection, direct, chosen, pooled=False)
    elif not found.pooled:
        listening = opener
    for finding in (found.clock, pooler(found.pooled, listening is not None)):
        if finding.level != "ok":
            _log.warning("%s: %s %s: %s", address.shown, finding.subject, finding.message, finding.remedy)
    watcher = Watcher(sql, queries.channel(chosen.schema), lanes, listening)
    watcher.start()

    broker = PostgresBroker(traits, verbs, lanes, watcher)
    beside = Beside(partial(Lanes, address.shown, opener, 1))

    @asynccontextmanager
    async def extender() -> AsyncGenerator[Extender]:
        async with beside.lane() as own:
            yield PostgresExtender(verbs, own)

    @asynccontextmanager
    async def open_store() -> AsyncGenerator[Store]:
        async with beside.lane() as own:
            yield PostgresStore(sql, own)

    try:
        yield Backend(
            broker=broker,
            extender=extender,
            results=PostgresResults(verbs, lanes, watcher),
            # Without a listener nobody would hear them.
            hints=None if listening is None else PostgresHints(address.shown, watcher),
            store=PostgresStore(sql, lanes),
            open_store=open_store,
            discard_and_settle=broker.discard_and_settle,
            transactions=PostgresTransactions(address.shown, traits, verbs, lent),
            admin=PostgresAdmin(sql, lanes, watcher),
            doctor=doctor(
                lanes,
                sql.health,
                connections=budget.budget(chosen),
                pooled=found.pooled,
                listening=listening is not None,
            ),
            rouse=watcher.rouse,
        )
    finally:
        with CancelScope(shield=True):
            # First of all: jobs may be on their way.
            await broker.close()
            await watcher.close()
            await lanes.close()
            await lent.close()


async def _look(address: Address, chosen: Settings, deployment: str) -> Deployment:
    """Ask the server what it is, by means that any pooler lets through."""
    connection = await open_connection(address, chosen, pooled=True)
    try:
        version = connection.get_server_version()
        if version.major < OLDEST:
            raise BrokerRejected(f"{address.shown} is PostgreSQL {version.major}: use PostgreSQL {OLDEST} or newer")
        if chosen.migrate:
            await migrate.apply(connection, chosen.schema)
        await migrate.check(connection, chosen.schema, address.shown)
        row, clock = await ask(connection, deployment)
        # A pooler shows its clients another process than the one that serves them.
        pooled = row["process"] != connection.get_server_pid() if chosen.pooled is None else chosen.pooled
        if pooled and row["isolation"] != "read committed":
            remedy = "ALTER ROLE … SET default_transaction_isolation = 'read committed' for this user"
            raise ConfigError(f"{address.shown}: transactions are {row['isolation']} behind this pooler: {remedy}")
        if not pooled:
            # What a pooler gives its clients is none of the server's.
            budget.check(row, address, chosen)
        return Deployment(pooled, _durability(row), clock)
    finally:
        await connection.close(timeout=2)


def _durability(row: Any) -> Durability:
    """What a commit that was confirmed survives."""
    if not row["fsync"] or row["synchronous_commit"] == "off":
        return "seconds"
    return "replicated" if row["replicated"] and row["synchronous_commit"] != "local" else "disk"
