"""The other servers keep the contract too: Redis 8.2, Redis 7.0 where found, a cluster, a master under Sentinel."""

from collections.abc import Iterator, Sequence

import pytest
from msgspec.structs import replace

from taskq.testing.broker_contract import Deployed
from taskq.testing.deployment import Deployment
from taskq.testing.leaving_clauses import LeavingClauses
from taskq.testing.store_contract import StoreContract
from tests.backends.redis.deployment import Tenant
from tests.contract.redis_server import RedisContract
from tests.servers import valkey
from tests.servers.fixtures import where
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
    with valkey.cluster(tmp_path_factory.mktemp("cluster"), replicas=3) as nodes:
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
    both = [guarded.master, guarded.replica]
    tenant = Tenant(masters(both), lambda user: f"redis+sentinel://{user}{places}/{guarded.name}")

    async def fail_over() -> None:
        """Instead of a restart: what a replica has confirmed outlives its master."""
        (master,) = tenant.nodes
        (replica,) = (server for server in both if server is not master)
        master.kill()
        valkey.await_all([replica], "role:master\r", "INFO replication")
        master.start()
        # The sentinels would tell it after eight seconds.
        valkey.ask(master, f"REPLICAOF 127.0.0.1 {replica.port}")
        valkey.await_all([master], "master_link_status:up\r", "INFO replication")
        tenant.nodes = [replica]
        tenant.permit("+@all")

    return replace(tenant.deployment, open=lambda: tenant.open(wait_replicas=1), restart=fail_over)


def masters(servers: Sequence[Process]) -> list[Process]:
    return [server for server in servers if "role:master\r" in valkey.ask(server, "INFO replication")]


CLUSTER = where("cluster", found=True)
SERVERS = [
    where("redis82", valkey.redis82_binary()),
    where("redis70", valkey.redis70_binary()),
    CLUSTER,
    where("sentinel", found=True),
]


@pytest.fixture(params=SERVERS)
def any_deployment(request: pytest.FixtureRequest) -> Deployment:
    deployment: Deployment = request.getfixturevalue(f"{request.param}_deployment")
    return deployment


class TestOtherServersBroker(RedisContract):
    @pytest.fixture
    def deployment(self, any_deployment: Deployment) -> Deployment:
        return any_deployment


@pytest.mark.anyio
class TestOtherServersLeaving(LeavingClauses, Deployed):
    @pytest.fixture(params=[server for server in SERVERS if server is not CLUSTER])
    def deployment(self, request: pytest.FixtureRequest) -> Deployment:
        deployment: Deployment = request.getfixturevalue(f"{request.param}_deployment")
        return deployment


class TestOtherServersStore(StoreContract):
    @pytest.fixture
    def deployment(self, any_deployment: Deployment) -> Deployment:
        return any_deployment
