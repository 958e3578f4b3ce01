"""Notifications where the jobs are on servers: what the other tests show on memory and SQLite, in one slice."""

from pathlib import Path

import pytest

from tests.backends.sqs.deployment import Tenant
from tests.notify import test_notifications
from tests.notify.test_notifications import receiver as receiver
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs
from tests.servers.fixtures import valkey as valkey
from tests.servers.process import Process
from tests.servers.tenants import queue_on

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["valkey", "postgres", "sqs"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    server: Process = request.getfixturevalue(request.param)
    if request.param != "sqs":
        return queue_on(server)
    monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db?synchronous=off")
    return Tenant(server).url


# Tests of another module, with the fixture of this one.
test_dead = test_notifications.test_a_dead_letter_is_told_signed_with_its_redacted_error
test_recovered = test_notifications.test_a_task_that_was_told_of_and_succeeds_again_is_told_once
