"""Schedules on every backend: what the virtual clock shows on memory holds by the clocks of servers, too."""

from collections import Counter
from pathlib import Path
from time import time

import anyio
import pytest

from taskq import App, current
from taskq.events import JobFinished
from taskq.schedule import job_of
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey as valkey
from tests.servers.fixtures import valkey_cluster as valkey_cluster
from tests.servers.tenants import queue_on
from tests.worker.moves import SOON, heard, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", "valkey", "valkey_cluster", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'taskq.db'}"
    server = request.getfixturevalue(request.param)
    if request.param == "valkey_cluster":
        places = ",".join(f"127.0.0.1:{node.port}" for node in server)
        return queue_on(server[0]).replace(server[0].url, f"redis+cluster://{places}")
    return queue_on(server)


async def test_three_workers_fire_each_tick_once_by_the_backends_clock(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, other = App(url), App(url)
    ran: Counter[str] = Counter()

    def add(to: App) -> None:
        @to.schedule("every 1s", name="report", overlap="skip", block_while_failed=True)
        @to.task(name="report")
        async def report() -> None:
            ran[current().id] += 1

    add(app)
    add(other)
    async with app, other:
        if not url.startswith("sqlite"):
            # Whatever these workers take for the time.
            monkeypatch.setattr("time.time", lambda: time() + 300)
        async with app.working(), app.working(), other.working():
            await wait_until(lambda: len(ran) >= 3)
        monkeypatch.undo()
        listed = await app.schedules.find("report")
        fired = [decided.tick for decided in listed.state.history if decided.verdict == "fired"]
        assert set(ran.values()) == {1}
        assert [tick - fired[0] for tick in fired] == list(range(len(fired)))
        assert abs(fired[-1] - time()) < SOON


async def test_a_schedule_is_made_paused_run_and_removed_from_another_process(url: str) -> None:
    app, other = App(url), App(url)
    ran: list[str] = []

    async def report(city: str) -> None:
        ran.append(f"{city} {current().id}")

    app.task(name="report", queue="reports")(report)
    call = other.task(name="report", queue="reports")(report).call("Berlin")
    async with app, other, app.working():
        await other.schedules.create("berlin", call, "every 1s", overlap="queue_one")
        await wait_until(lambda: ran)
        await other.schedules.pause("berlin")
        enqueued = await other.schedules.run("berlin")
        await wait_until(lambda: f"Berlin {enqueued.id}" in ran)
        assert [listed.state.paused for listed in await app.schedules.list()] == [True]
        assert await other.schedules.remove("berlin")
        assert list(await app.schedules.list()) == []


async def test_a_second_job_of_a_tick_does_not_run(url: str) -> None:
    app = App(url)
    ran: list[str] = []

    @app.schedule("0 0 1 1 *", name="report")
    @app.task
    async def report() -> None:
        ran.append(current().headers["taskq-life"])

    schedule = app.schedules.static["report"]
    ends = heard(app, JobFinished)
    async with app, app.working():
        assert (await app.enqueue(job_of(schedule, 0.0, "first"))).added
        await wait_until(lambda: len(ends) == 1)
        # The end is told before it is settled, and until then the id is taken.
        with anyio.fail_after(SOON):
            while not (await app.enqueue(job_of(schedule, 0.0, "second"))).added:  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.01)
        await wait_until(lambda: len(ends) == 2)
    assert ran == ["first"]
    assert [end.end for end in ends] == ["returned", "discarded"]
