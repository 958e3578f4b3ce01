"""Valkey keeps the contract; tests/backends/redis holds the other servers to it."""

from collections.abc import Iterator

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from taskq.testing.store_contract import StoreContract
from tests.backends.redis.deployment import Tenant
from tests.servers import valkey
from tests.servers.process import Process


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Its own, because the contract restarts it."""
    with valkey.single(tmp_path_factory.mktemp("redis"), aof="always") as server:
        yield server


@pytest.fixture
def redis_deployment(redis_server: Process) -> Deployment:
    return Tenant([redis_server], lambda user: f"redis://{user}127.0.0.1:{redis_server.port}").deployment


class TestRedisBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, redis_deployment: Deployment) -> Deployment:
        return redis_deployment


class TestRedisStore(StoreContract):
    @pytest.fixture
    def deployment(self, redis_deployment: Deployment) -> Deployment:
        return redis_deployment
