"""A Valkey of the contract's own, because the contract restarts it; each test is a user with a namespace."""

from collections.abc import Iterator

import pytest

from taskq.testing.deployment import Deployment
from tests.backends.redis.deployment import Tenant
from tests.servers import valkey
from tests.servers.process import Process


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with valkey.single(tmp_path_factory.mktemp("redis"), aof="always") as server:
        yield server


@pytest.fixture
def redis_deployment(redis_server: Process) -> Deployment:
    return Tenant([redis_server], lambda user: f"redis://{user}127.0.0.1:{redis_server.port}").deployment
