"""Where flows are tested: on every backend.

A cluster is stricter than one server of Redis, which has the long runs; so has SQS, with a companion.
"""

import os
from pathlib import Path

import pytest

from tests.backends.sqs.deployment import Tenant
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs
from tests.servers.fixtures import valkey as valkey
from tests.servers.fixtures import valkey_cluster as valkey_cluster
from tests.servers.tenants import queue_anywhere

LONG = "TASKQ_TEST_LONG" in os.environ


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", "sqlite", *(["valkey", "sqs"] if LONG else []), "cluster", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend of its own for each test."""
    if request.param == "sqs":
        monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db")
        return Tenant(request.getfixturevalue("sqs"), bands="3,0").url
    return queue_anywhere(request, tmp_path)
