"""Valkey keeps the contract; tests/backends/redis holds the other servers to it."""

import pytest

from taskq.testing.deployment import Deployment
from taskq.testing.leaving_clauses import LeavingClauses
from taskq.testing.store_contract import StoreContract
from tests.contract.redis_server import RedisContract


@pytest.mark.unskipped
class TestRedisBroker(RedisContract, LeavingClauses):
    @pytest.fixture
    def deployment(self, redis_deployment: Deployment) -> Deployment:
        return redis_deployment


class TestRedisStore(StoreContract):
    @pytest.fixture
    def deployment(self, redis_deployment: Deployment) -> Deployment:
        return redis_deployment
