"""Story AS-23: one app, on Redis and on SQS with a companion; what differs is its configuration."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from importlib import import_module, reload
from pathlib import Path

import anyio
import pytest

from tests.backends.sqs.deployment import Tenant
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs
from tests.servers.fixtures import valkey as valkey
from tests.servers.process import Process
from tests.servers.tenants import queue_on

POSTS, READERS = 3, 5


@pytest.fixture(params=["redis", "sqs"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "redis":
        return {"TASKQ_URL": queue_on(request.getfixturevalue("valkey"))}
    server: Process = request.getfixturevalue("sqs")
    return {"TASKQ_URL": Tenant(server).url, "TASKQ_COMPANION": f"sqlite:///{tmp_path}/companion.db"}


@pytest.mark.anyio
async def test_as_23_reloads_are_counted_once_wherever_the_app_is_configured_to_run(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "views.db")
    for name, value in {**settings, "VIEWS_GATHERING": "1", "VIEWS_DATABASE": file}.items():
        monkeypatch.setenv(name, value)
    example = reload(import_module("examples.views.app"))
    with closing(sqlite3.connect(file)) as database:
        database.executescript(example.SCHEMA)

    def counts() -> Sequence[tuple[int, int, int]]:
        with closing(sqlite3.connect(file)) as database:
            return database.execute("SELECT * FROM counts ORDER BY post").fetchall()

    async with example.app:
        for reader in [*range(READERS), *range(READERS)]:
            for post in range(POSTS):
                await example.view(post, reader)
        async with example.app.working():
            with anyio.fail_after(60):
                while [(post, readers) for post, readers, _ in counts()] != [(n, READERS) for n in range(POSTS)]:  # noqa: ASYNC110 a database is asked
                    await anyio.sleep(0.05)
            assert not any([line.later, line.ready, line.dead] != [0, 0, 0] for line in await example.app.admin.stats())
