"""The PostgreSQL backend keeps the contract: on 18, 17 and 15, and behind a pooler that prepares no statements."""

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import quote

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from taskq.testing.state_machine import StateMachine
from taskq.testing.store_contract import StoreContract
from tests.contract.postgres_server import PostgresServer
from tests.servers import pgbouncer as bouncers
from tests.servers import postgres as postgresql
from tests.servers.fixtures import where

BINARIES = {
    "18": postgresql.postgres18_binaries(),
    "17": postgresql.postgres17_binaries(),
    "15": postgresql.postgres15_binaries(),
}
BOUNCER = bouncers.pgbouncer_binary()


@pytest.fixture(
    scope="module", params=[*(where(name, found) for name, found in BINARIES.items()), where("pgbouncer", BOUNCER)]
)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """One that these tests restart, and that promises what it keeps."""
    with ExitStack() as stack:
        own = stack.enter_context(postgresql.postgres(BINARIES.get(request.param), options=["fsync=on"]))
        if request.param != "pgbouncer":
            yield PostgresServer(own, own.url)
            return
        assert BOUNCER is not None
        bouncer = stack.enter_context(bouncers.pgbouncer(BOUNCER, own))
        yield PostgresServer(own, f"{bouncer.url}?listen_url={quote(own.url, safe='')}", bouncer)


class TestPostgresBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, server: PostgresServer) -> Deployment:
        return server.deployment()


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def deployment(self, server: PostgresServer) -> Deployment:
        return server.deployment()


class TestPostgresHistories(StateMachine):
    @pytest.fixture
    def deployment(self, server: PostgresServer) -> Deployment:
        return server.deployment()
