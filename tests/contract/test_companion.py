"""A broker with a companion keeps the contract, whatever carries and whatever keeps."""

import pytest

from taskq.testing.deployment import Deployment
from tests.contract.companions import CompanionContract, paired
from tests.contract.conftest import Memory


class TestCompanion(CompanionContract):
    @pytest.fixture
    def deployment(self) -> Deployment:
        return paired(Memory().deployment, Memory().deployment)
