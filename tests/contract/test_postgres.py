"""The PostgreSQL backend keeps the contract: on 18, 17 and 15, directly and behind a pooler in transaction mode."""

from collections.abc import Iterator

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from taskq.testing.state_machine import StateMachine
from taskq.testing.store_contract import StoreContract
from tests.contract.postgres_server import PostgresServer
from tests.servers import pgbouncer as bouncers
from tests.servers import postgres as postgresql
from tests.servers.process import Process


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
        return PostgresServer(server18, server18.url).deployment()


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def deployment(self, server18: Process) -> Deployment:
        return PostgresServer(server18, server18.url).deployment()


class TestPostgresHistories(StateMachine):
    @pytest.fixture
    def deployment(self, server18: Process) -> Deployment:
        return PostgresServer(server18, server18.url).deployment()


class TestPostgres17Broker(BrokerContract):
    @pytest.fixture
    def deployment(self, server17: Process) -> Deployment:
        return PostgresServer(server17, server17.url).deployment()


class TestPostgres17Store(StoreContract):
    @pytest.fixture
    def deployment(self, server17: Process) -> Deployment:
        return PostgresServer(server17, server17.url).deployment()


class TestPostgres15Broker(BrokerContract):
    @pytest.fixture
    def deployment(self, server15: Process) -> Deployment:
        return PostgresServer(server15, server15.url).deployment()


class TestPgBouncerBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, server18: Process, bouncer: Process) -> Deployment:
        return PostgresServer(server18, f"{bouncer.url}?listen_url={server18.url}", bouncer).deployment()


class TestPgBouncerStore(StoreContract):
    @pytest.fixture
    def deployment(self, server18: Process, bouncer: Process) -> Deployment:
        return PostgresServer(server18, bouncer.url, bouncer).deployment()
