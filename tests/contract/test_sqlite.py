"""The embedded backend keeps the contract."""

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from taskq.testing.state_machine import StateMachine
from taskq.testing.store_contract import StoreContract


class TestSqliteBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, sqlite_deployment: Deployment) -> Deployment:
        return sqlite_deployment


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def deployment(self, sqlite_deployment: Deployment) -> Deployment:
        return sqlite_deployment


class TestSqliteHistories(StateMachine):
    @pytest.fixture
    def deployment(self, sqlite_deployment: Deployment) -> Deployment:
        return sqlite_deployment
