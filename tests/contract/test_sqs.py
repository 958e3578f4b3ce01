"""SQS keeps the contract, as far as it promises: an emulator over HTTP, standard queues and FIFO queues."""

import pytest

from taskq.testing.broker_contract import BrokerContract
from taskq.testing.deployment import Deployment
from tests.backends.sqs.deployment import Tenant
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs
from tests.servers.process import Process


class TestSqsBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, sqs: Process) -> Deployment:
        return Tenant(sqs).deployment


class TestSqsFifoBroker(BrokerContract):
    @pytest.fixture
    def deployment(self, sqs: Process) -> Deployment:
        return Tenant(sqs, fifo=True).deployment
