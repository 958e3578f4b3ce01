"""The other servers keep the contract too: Redis 8.2, Redis 7.0 where found, a cluster, a master under Sentinel."""

from collections.abc import Iterator

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from taskq.testing.store_contract import StoreContract
from tests.backends.redis.deployment import Tenant
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.valkey import Watched


def alone(server: Process) -> Deployment:
    return Tenant([server], lambda user: f"redis://{user}127.0.0.1:{server.port}").deployment


@pytest.fixture
def redis82_deployment(redis82: Process) -> Deployment:
    return alone(redis82)


@pytest.fixture
def redis70_deployment(redis70: Process) -> Deployment:
    return alone(redis70)


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Process]]:
    """Its own, because the contract restarts them."""
    with valkey.cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
def cluster_deployment(nodes: list[Process]) -> Deployment:
    places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return Tenant(nodes, lambda user: f"redis+cluster://{user}{places}").deployment


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with valkey.watched(tmp_path_factory.mktemp("sentinel")) as watched:
        yield watched


@pytest.fixture
def sentinel_deployment(guarded: Watched) -> Deployment:
    places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in guarded.sentinels)
    tenant = Tenant([guarded.master], lambda user: f"redis+sentinel://{user}{places}/{guarded.name}")
    return Deployment(
        open=tenant.open, residue=tenant.residue, sever=tenant.sever, driver_errors=tenant.deployment.driver_errors
    )


SERVERS = ["redis82", "redis70", "cluster", "sentinel"]


@pytest.fixture(params=SERVERS)
def any_deployment(request: pytest.FixtureRequest) -> Deployment:
    deployment: Deployment = request.getfixturevalue(f"{request.param}_deployment")
    return deployment


class TestOtherServersBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, any_deployment: Deployment) -> Deployment:
        return any_deployment


class TestOtherServersStore(StoreContract):
    @pytest.fixture
    def deployment(self, any_deployment: Deployment) -> Deployment:
        return any_deployment
