"""Valkey under test: each test is a user with a namespace."""

import pytest

from taskq.testing.deployment import Deployment
from tests.backends.redis.deployment import Tenant
from tests.servers.process import Process


@pytest.fixture
def redis_deployment(durable_redis: Process) -> Deployment:
    return Tenant([durable_redis], lambda user: f"redis://{user}127.0.0.1:{durable_redis.port}").deployment
