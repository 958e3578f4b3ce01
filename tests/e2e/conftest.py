"""The backends that real processes are killed on, and how long a run is."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.backends.sqs.deployment import Tenant
from tests.e2e.harness import LONG
from tests.e2e.load import Load, Loading, working
from tests.servers.fixtures import durable_redis as durable_redis
from tests.servers.fixtures import own_postgres as own_postgres
from tests.servers.fixtures import own_redis as own_redis
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs
from tests.servers.fixtures import valkey_cluster as valkey_cluster
from tests.servers.process import Process
from tests.servers.tenants import queue_anywhere


@pytest.fixture(scope="session")
def redis(durable_redis: Process) -> Process:
    """As the queues of these tests are called."""
    return durable_redis


FAULTS = """# Servers and networks that break

One worker process that is never started again (20 slots, leases of 1 s) and a producer that never stops, while what
the row says happens again and again. A run fails unless `taskq.testing.verdict` finds every promise kept. What is lost
on a server that promises less (`everysec` two seconds of it, `none` all, one that was emptied) must have been confirmed
before the fault, and the log of the worker must tell of it. Work went on within 5 seconds, not counting those in which
the worker or the test waited for a core of a busy machine; with them in brackets."""

STORIES = pytest.mark.parametrize(
    "url", ["sqlite", *(["redis", "sqs"] if LONG else []), "cluster", "postgres"], indirect=True
)
"""On a cluster, too, which is stricter than a single Redis: that one has the long runs, as has SQS."""


@pytest.fixture(params=["sqlite", "redis", "postgres", *(["sqs"] if LONG else [])])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A queue of the test's own, for any number of processes; on SQS with a companion."""
    if request.param == "sqs":
        monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db")
        return Tenant(request.getfixturevalue("sqs")).url
    return queue_anywhere(request, tmp_path)


@pytest.fixture
def rounds() -> Callable[[int, int], int]:
    """A number for every day, and the one that the issues name."""
    return lambda sample, full: full if LONG else sample


@pytest.fixture
def load(row: Callable[[str, str, Mapping[str, object]], None]) -> Loading:
    """Work under which a server or a network is broken; what it has come to is a row of the report."""

    @asynccontextmanager
    async def loading(url: str, directory: Path, *, workers: int = 1, detour: str = "") -> AsyncGenerator[Load]:
        async with working(url, directory, workers=workers, detour=detour) as loaded:
            yield loaded
        row("faults", FAULTS, loaded.told())

    return loading
