"""SQS keeps the contract, as far as it promises: an emulator over HTTP, standard queues and FIFO queues.

Alone, and with a companion. Every day what one of them has and the others have not; the rest of each takes its time.
"""

import os

import pytest

from taskq.testing.broker_contract import BrokerContract, Deployed
from taskq.testing.capability_clauses import CapabilityClauses
from taskq.testing.deployment import Deployment
from taskq.testing.group_clauses import GroupClauses
from tests.backends.sqs.deployment import Tenant
from tests.contract.companions import CompanionContract, paired
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs
from tests.servers.process import Process

WHOLE = "TASKQ_TEST_LONG" in os.environ
"""Whole suites of each pairing take minutes: they are no tests by day."""


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def companion(request: pytest.FixtureRequest) -> Deployment:
    deployment: Deployment = request.getfixturevalue(f"{request.param}_deployment")
    return deployment


class TestSqsBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, sqs: Process) -> Deployment:
        return Tenant(sqs).deployment


@pytest.mark.long
class TestSqsFifoBroker(BrokerContract):
    __test__ = WHOLE

    @pytest.fixture
    def deployment(self, sqs: Process) -> Deployment:
        return Tenant(sqs, fifo=True).deployment


@pytest.mark.anyio
class TestPartsOfSqsWithCompanion(GroupClauses, CapabilityClauses, Deployed):
    @pytest.fixture
    def deployment(self, sqs: Process, sqlite_deployment: Deployment) -> Deployment:
        return paired(Tenant(sqs).deployment, sqlite_deployment)


@pytest.mark.long
class TestSqsWithCompanion(CompanionContract):
    __test__ = WHOLE

    @pytest.fixture
    def deployment(self, sqs: Process, companion: Deployment) -> Deployment:
        return paired(Tenant(sqs).deployment, companion)


@pytest.mark.long
class TestSqsFifoWithCompanion(CompanionContract):
    __test__ = WHOLE

    @pytest.fixture
    def deployment(self, sqs: Process, companion: Deployment) -> Deployment:
        return paired(Tenant(sqs, fifo=True).deployment, companion)
