"""The PostgreSQL backend keeps the contract: on 18, 17 and 15, directly and behind a pooler in transaction mode."""

from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest
from taskq_postgres import connect

from taskq.broker import Backend
from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from taskq.testing.state_machine import StateMachine
from taskq.testing.store_contract import StoreContract
from tests.servers import pgbouncer as bouncers
from tests.servers import postgres as postgresql
from tests.servers.process import Process


class _Postgres:
    def __init__(self, server: Process, url: str, pooler: Process | None = None) -> None:
        self._server = server
        self._url = url
        self._pooler = pooler

    def open(self) -> AbstractAsyncContextManager[Backend]:
        return connect(self._url, migrate=True)

    async def residue(self) -> Collection[str]:
        """Each row of each table, but for the bookkeeping of the migrations."""
        connection = await asyncpg.connect(self._server.url)
        try:
            rows: list[str] = []
            for table in ("jobs", "ended", "keys", "members"):
                # Table names cannot be parameters.
                rows += [f"{table}: {row}" for row in await connection.fetch(f"SELECT * FROM taskq.{table}")]  # noqa: S608
            return rows
        finally:
            await connection.close()

    async def restart(self) -> None:
        self._server.stop(postgresql.IMMEDIATE)
        self._server.start()
        if self._pooler is not None:
            # It remembers for 15 seconds that the server was away.
            self._pooler.stop()
            self._pooler.start()

    @asynccontextmanager
    async def sever(self, backend: Backend) -> AsyncGenerator[None]:  # noqa: ARG002  # every backend on the server
        ended = self._pooler or self._server
        # A shutdown would wait for this blocked process, which may be in the middle of connecting.
        ended.kill()
        try:
            yield
        finally:
            ended.start()

    def deployment(self) -> Deployment:
        return Deployment(
            open=self.open,
            residue=self.residue,
            restart=self.restart,
            sever=self.sever,
            driver_errors=(asyncpg.PostgresError, asyncpg.InterfaceError, OSError),
        )


@pytest.fixture(scope="module")
def server18() -> Iterator[Process]:
    """A server that these tests restart, and that promises what it keeps."""
    with postgresql.postgres(options=["fsync=on"]) as server:
        yield server


@pytest.fixture(scope="module")
def server17() -> Iterator[Process]:
    with postgresql.postgres(postgresql.postgres17_binaries(), options=["fsync=on"]) as server:
        yield server


@pytest.fixture(scope="module")
def server15() -> Iterator[Process]:
    binaries = postgresql.postgres15_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL 15 is not found here")
    with postgresql.postgres(binaries, options=["fsync=on"]) as server:
        yield server


@pytest.fixture(scope="module")
def bouncer(server18: Process) -> Iterator[Process]:
    binary = bouncers.pgbouncer_binary()
    if binary is None:
        pytest.skip("pgbouncer is not found here")
    with bouncers.pgbouncer(binary, server18) as found:
        yield found


class TestPostgresBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, server18: Process) -> Deployment:
        return _Postgres(server18, server18.url).deployment()


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def deployment(self, server18: Process) -> Deployment:
        return _Postgres(server18, server18.url).deployment()


class TestPostgresHistories(StateMachine):
    @pytest.fixture
    def deployment(self, server18: Process) -> Deployment:
        return _Postgres(server18, server18.url).deployment()


class TestPostgres17Broker(BrokerContract):
    @pytest.fixture
    def deployment(self, server17: Process) -> Deployment:
        return _Postgres(server17, server17.url).deployment()


class TestPostgres17Store(StoreContract):
    @pytest.fixture
    def deployment(self, server17: Process) -> Deployment:
        return _Postgres(server17, server17.url).deployment()


class TestPostgres15Broker(BrokerContract):
    @pytest.fixture
    def deployment(self, server15: Process) -> Deployment:
        return _Postgres(server15, server15.url).deployment()


class TestPgBouncerBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, server18: Process, bouncer: Process) -> Deployment:
        return _Postgres(server18, f"{bouncer.url}?listen_url={server18.url}", bouncer).deployment()


class TestPgBouncerStore(StoreContract):
    @pytest.fixture
    def deployment(self, server18: Process, bouncer: Process) -> Deployment:
        return _Postgres(server18, bouncer.url, bouncer).deployment()
