"""The contract of a backend as tests. A backend passes it, or is none.

A backend's author writes, in a test module::

    class TestMine(BrokerContract):
        @pytest.fixture
        def deployment(self) -> Deployment:
            return Deployment(open=lambda: connect("mine://localhost"), residue=...)

Each test's name begins with the clause it proves. Time moves by short leases, never by sleeping, so the same tests run
on any server; each uses queues of its own, so they run in parallel on one server.
"""

from collections.abc import AsyncGenerator
from uuid import uuid4

import pytest

from taskq.broker import Backend
from taskq.testing.capability_clauses import CapabilityClauses
from taskq.testing.connection_clauses import ConnectionClauses
from taskq.testing.deployment import Deployment
from taskq.testing.enqueue_clauses import EnqueueClauses
from taskq.testing.fetch_clauses import FetchClauses
from taskq.testing.group_clauses import GroupClauses
from taskq.testing.leaving_clauses import LeavingClauses
from taskq.testing.order_clauses import OrderClauses
from taskq.testing.settle_clauses import SettleClauses
from taskq.testing.tenant_clauses import TenantClauses
from taskq.testing.transaction_clauses import TransactionClauses


class Deployed:
    """What the clauses of a backend stand on."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def deployment(self) -> Deployment:
        """The one thing to override: where the backend under test lives."""
        raise NotImplementedError("override the fixture `deployment`")

    @pytest.fixture
    async def backend(self, deployment: Deployment, anyio_backend: str) -> AsyncGenerator[Backend]:  # noqa: ARG002
        async with deployment.open() as backend:
            yield backend

    @pytest.fixture
    async def other(self, deployment: Deployment, backend: Backend) -> AsyncGenerator[Backend]:  # noqa: ARG002
        """A second connection, as of another process."""
        async with deployment.open() as other:
            yield other

    @pytest.fixture
    def queue(self) -> str:
        """A queue, and a prefix of queues, that no other test uses."""
        return f"q{uuid4().hex[:12]}"


@pytest.mark.anyio
class BrokerContract(
    EnqueueClauses,
    FetchClauses,
    OrderClauses,
    GroupClauses,
    TenantClauses,
    SettleClauses,
    ConnectionClauses,
    CapabilityClauses,
    LeavingClauses,
    TransactionClauses,
    Deployed,
):
    """Every clause from C-E1 to C-A4, and the optional parts a backend hands over."""
