"""Old and new code side by side: what is newer waits for the new code, what is older is brought up to date."""

from pathlib import Path
from typing import Any

import pytest

from taskq import App, Retry
from taskq.errors import ConfigError, DecodeError
from taskq.events import JobAgain, JobFinished
from taskq.job import Job
from taskq.testing import run_until_idle
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey as valkey
from tests.servers.fixtures import valkey_cluster as valkey_cluster
from tests.servers.tenants import queue_anywhere
from tests.worker.moves import one_memory, wait_until

pytestmark = pytest.mark.anyio

Done = list[tuple[str, str]]
"""Which code worked for whom."""
RECIPIENTS = {"old": 500, "new": 250, "second": 250, "news": 250}
"""By kind of call; a call of the new version has two."""


def old_code(url: str, done: Done) -> App:
    app = App(url)

    @app.task(name="mail", retry=Retry(1))
    async def mail(to: str) -> None:
        done.append(("old", to))

    return app


def new_code(url: str, done: Done) -> App:
    app = App(url)

    def upcast(version: int, arguments: dict[str, Any]) -> dict[str, Any]:
        assert version == 1
        return {"recipients": [arguments["to"]]}

    @app.task(name="mail", retry=Retry(1), version=2, upcast=upcast)
    async def mail(recipients: list[str]) -> None:
        done.extend(("new", to) for to in recipients)

    @app.task(name="news", retry=Retry(1))
    async def news(to: str) -> None:
        done.append(("new", to))

    return app


@pytest.fixture(params=["memory", "sqlite", "valkey", "cluster", "postgres"])
def apps(
    request: pytest.FixtureRequest, done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[App, App]:
    """Old and new code on the same queue."""
    if request.param == "memory":
        monkeypatch.setattr("taskq.opening.connect", one_memory())
    url = queue_anywhere(request, tmp_path)
    return old_code(url, done), new_code(url, done)


@pytest.fixture
def done() -> Done:
    return []


async def test_two_versions_share_a_queue_and_no_attempt_is_burned(apps: tuple[App, App], done: Done) -> None:
    """AS-08."""
    old, new = apps
    again: list[JobAgain] = []
    ends: list[JobFinished] = []
    for app in apps:
        app.events.subscribe(JobAgain, again.append)
        app.events.subscribe(JobFinished, ends.append)
    numbers = range(250)
    async with old, new:
        await old.defer_many(old.find_task("mail").call(f"old {n}") for n in range(500))
        await new.defer_many(new.find_task("mail").call([f"new {n}", f"second {n}"]) for n in numbers)
        await new.defer_many(new.find_task("news").call(f"news {n}") for n in numbers)
        async with old.working():
            await wait_until(lambda: again)
            # The old workers leave, as in any deploy: what they put back is the new ones'.
            async with new.working():
                await wait_until(lambda: len(ends) > 300)
        await run_until_idle(new, until="empty")
        assert not await new.admin.list_jobs("default", "dead", after=None, limit=1)
    assert sorted(to for _, to in done) == sorted(
        f"{kind} {n}" for kind, many in RECIPIENTS.items() for n in range(many)
    )
    assert {by for by, to in done if not to.startswith("old")} == {"new"}
    assert "version 2 of a task named 'mail'" in "".join(event.reason for event in again)
    assert not any(event.counted for event in again)
    assert [end.end for end in ends] == ["returned"] * 1_000


async def test_an_upcaster_that_raises_sets_the_job_aside_with_its_error() -> None:
    app = App("memory://")

    def upcast(version: int, arguments: dict[str, Any]) -> dict[str, Any]:
        raise KeyError(version, *arguments)

    @app.task(name="mail", version=3, upcast=upcast)
    async def mail(to: str) -> None: ...

    async with app:
        await app.enqueue(Job(id="1", task="mail", body=b'{"args":{"to":"ada"}}', headers={"taskq-version": "2"}))
        with pytest.raises(DecodeError, match=r"bringing a call of version 2 up to date: KeyError\(2, 'to'\)"):
            await run_until_idle(app, raise_failures=True)
        (dead,) = await app.admin.list_jobs("default", "dead", after=None, limit=2)
        assert dead.attempt == 1


def test_an_upcaster_needs_a_version() -> None:
    app = App("memory://")
    with pytest.raises(ConfigError, match="give version=2 or more"):

        @app.task(upcast=lambda _, arguments: arguments)
        async def mail(to: str) -> None: ...
