"""Valkey under test: each test is a user with a namespace; and the contract as Redis keeps it, without a skip."""

import pytest

from taskq.broker import Backend
from taskq.testing.broker_contract import Deployed
from taskq.testing.capability_clauses import CapabilityClauses
from taskq.testing.connection_clauses import ConnectionClauses
from taskq.testing.deployment import Deployment
from taskq.testing.enqueue_clauses import EnqueueClauses
from taskq.testing.fetch_clauses import FetchClauses
from taskq.testing.group_clauses import GroupClauses
from taskq.testing.order_clauses import OrderClauses
from taskq.testing.settle_clauses import SettleClauses
from taskq.testing.tenant_clauses import TenantClauses
from tests.backends.redis.deployment import Tenant
from tests.servers.process import Process


@pytest.fixture
def redis_deployment(durable_redis: Process) -> Deployment:
    return Tenant([durable_redis], lambda user: f"redis://{user}127.0.0.1:{durable_redis.port}").deployment


@pytest.mark.anyio
class RedisContract(
    EnqueueClauses,
    FetchClauses,
    OrderClauses,
    GroupClauses,
    TenantClauses,
    SettleClauses,
    ConnectionClauses,
    CapabilityClauses,
    Deployed,
):
    """The contract without the transactions of a database."""

    async def test_what_is_left_out_is_not_promised(self, backend: Backend) -> None:
        assert backend.transactions is None
