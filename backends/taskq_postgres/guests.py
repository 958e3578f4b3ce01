"""Connections of callers, whichever library opened them, as the joined broker uses them.

None of these libraries is imported: an object of theirs can only come from somebody who has imported it.
"""

import re
import sys
from asyncio import to_thread
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import asyncpg
import asyncpg.pool

from taskq.errors import BrokerRejected, ConfigError
from taskq_postgres.faults import DRIVER_ERRORS
from taskq_postgres.lanes import Connection

_NO_TRANSACTION = "the connection is in no transaction: open one with connection.transaction() first"
_ALCHEMY = {
    "sqlalchemy.engine": ["Connection"],
    "sqlalchemy.orm": ["Session"],
    "sqlalchemy.ext.asyncio": ["AsyncConnection", "AsyncSession"],
}

Rows: TypeAlias = Sequence[Any]


class Guest(Protocol):
    """An open connection on which a statement of this backend can be carried out."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What it raises."""
        ...

    async def fetch(self, query: str, *arguments: object) -> Rows:
        """The rows of a statement, in the caller's transaction; raises BrokerRejected where there is none."""
        ...


class AsyncpgGuest:
    """A connection of asyncpg, or what its pool lends."""

    errors = DRIVER_ERRORS

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, query: str, *arguments: object) -> Rows:
        if not self._connection.is_closed() and not self._connection.is_in_transaction():
            raise BrokerRejected(_NO_TRANSACTION)
        return await self._connection.fetch(query, *arguments)


class PsycopgGuest:
    """A connection of psycopg 3, sync or async."""

    def __init__(self, psycopg: Any, connection: Any) -> None:
        self.errors = (psycopg.Error,)
        self._psycopg = psycopg
        self._connection = connection

    async def fetch(self, query: str, *arguments: object) -> Rows:
        connection, psycopg = self._connection, self._psycopg
        if connection.autocommit and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            raise BrokerRejected(_NO_TRANSACTION)
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        statement = _named(query, arguments)
        if isinstance(connection, psycopg.AsyncConnection):
            async with cursor:
                await cursor.execute(*statement)
                rows: Rows = await cursor.fetchall()
                return rows

        def run() -> Rows:
            with cursor:
                rows: Rows = cursor.execute(*statement).fetchall()
                return rows

        return await to_thread(run)


class AlchemyGuest:
    """A session or connection of SQLAlchemy 2, sync or async: it begins a transaction by itself, where none is open."""

    def __init__(self, errors: Any, subject: Any) -> None:
        self.errors = (errors.SQLAlchemyError,)
        self._subject = subject

    async def fetch(self, query: str, *arguments: object) -> Rows:
        def run(subject: Any) -> Rows:
            # Of a session it is a method, of a connection what is beneath it.
            connection = subject.connection() if callable(subject.connection) else subject
            return _through_alchemy(connection, query, arguments)

        if hasattr(self._subject, "run_sync"):
            rows: Rows = await self._subject.run_sync(run)
            return rows
        return await to_thread(run, self._subject)


def _through_alchemy(connection: Any, query: str, arguments: Sequence[object]) -> Rows:
    if connection.connection.dbapi_connection.autocommit:
        raise BrokerRejected("the connection commits each statement: give one whose isolation is not AUTOCOMMIT")
    match connection.dialect.driver:
        case "asyncpg":
            result = connection.exec_driver_sql(query, tuple(arguments))
        case "psycopg" | "psycopg_async":
            result = connection.exec_driver_sql(*_named(query, arguments))
        case driver:
            raise ConfigError(f"a transaction of SQLAlchemy can be joined over asyncpg or psycopg, not over {driver}")
    rows: Rows = result.mappings().all()
    return rows


def guest(connection: object, shown: str) -> Guest:
    """The caller's connection, if its kind is known. Raises ConfigError for others."""
    # What a pool lends is a proxy of a connection, and does all that one does.
    if isinstance(connection, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        return AsyncpgGuest(cast("Connection", connection))
    if (psycopg := sys.modules.get("psycopg")) and isinstance(connection, psycopg.Connection | psycopg.AsyncConnection):
        return PsycopgGuest(psycopg, connection)
    for module, names in _ALCHEMY.items():
        kinds = tuple(getattr(sys.modules[module], name) for name in names) if module in sys.modules else ()
        if isinstance(connection, kinds):
            return AlchemyGuest(sys.modules["sqlalchemy.exc"], connection)
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    raise ConfigError(
        f"join() takes a connection of asyncpg or psycopg to {shown}, or a session or connection of SQLAlchemy, not a"
        f" {kind}: give django.db.connection.connection for Django's, session() for what stands for a thread's session"
    )


def _named(query: str, arguments: Sequence[object]) -> tuple[str, Mapping[str, object]]:
    """A statement with ``$1`` as psycopg takes it."""
    numbered = {f"p{number}": argument for number, argument in enumerate(arguments, 1)}
    return re.sub(r"\$(\d+)", r"%(p\1)s", query.replace("%", "%%")), numbered
