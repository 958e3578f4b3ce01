"""A broker with a companion keeps the contract, whatever carries and whatever keeps."""

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from tests.contract.companions import paired
from tests.contract.conftest import Memory


class TestCompanion(BrokerContract):
    @pytest.fixture
    def deployment(self) -> Deployment:
        return paired(Memory().deployment, Memory().deployment)
