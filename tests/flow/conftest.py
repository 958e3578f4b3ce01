"""Where flows are tested: on every backend, in one slice."""

from pathlib import Path

import pytest

from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey as valkey
from tests.servers.tenants import queue_on


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", "sqlite", "valkey", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A backend of its own for each test."""
    match request.param:
        case "memory":
            return "memory://"
        case "sqlite":
            return f"sqlite:///{tmp_path}/taskq.db"
        case server:
            return queue_on(request.getfixturevalue(server))
