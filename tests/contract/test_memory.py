"""The reference backend keeps the contract."""

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, memory_deployment: Deployment) -> Deployment:
        return memory_deployment
