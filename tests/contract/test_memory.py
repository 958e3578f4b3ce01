"""The reference backend keeps the contract."""

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from taskq.testing.state_machine import StateMachine
from taskq.testing.store_contract import StoreContract


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, memory_deployment: Deployment) -> Deployment:
        return memory_deployment


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def deployment(self, memory_deployment: Deployment) -> Deployment:
        return memory_deployment


class TestMemoryHistories(StateMachine):
    @pytest.fixture
    def deployment(self, memory_deployment: Deployment) -> Deployment:
        return memory_deployment
