"""Schedules on every backend: what the virtual clock shows on memory holds by the clocks of servers, too."""

import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from math import inf
from pathlib import Path
from time import time
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest
from msgspec.structs import replace

from taskq import App, current
from taskq.events import JobFinished
from taskq.job import JobRef
from taskq.retry import Retry
from taskq.schedule import job_of
from taskq.store import Entry, Store
from taskq.worker.ticker import Ticker
from tests.backends.sqs.deployment import Tenant
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs
from tests.servers.fixtures import valkey as valkey
from tests.servers.fixtures import valkey_cluster as valkey_cluster
from tests.servers.tenants import queue_anywhere, queue_on
from tests.unit.clock_changes import ZONES, offset
from tests.worker.moves import SOON, heard, wait_until
from tests.worker.test_schedules import AS_04, AS_47

pytestmark = pytest.mark.anyio

LONG = "TASKQ_TEST_LONG" in os.environ


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


# The hour of AS-04 and the night of AS-47, tick by tick


NIGHT = datetime(2026, 3, 29, tzinfo=UTC).timestamp()


class ByHand:
    """The store, but that its clock is moved by hand."""

    def __init__(self, store: Store, now: datetime) -> None:
        self._store = store
        self.swap, self.add, self.discard = store.swap, store.add, store.discard
        self.now = now.timestamp()

    async def get(self, key: str) -> Entry:
        return replace(await self._store.get(key), now=self.now)


@pytest.fixture(params=["sqlite", *(["valkey", "cluster", "postgres", "sqs"] if LONG else [])])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sqs":
        monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db")
        return Tenant(request.getfixturevalue("sqs")).url
    return queue_anywhere(request, tmp_path)


async def fire(app: App, store: ByHand, last: float) -> None:
    """Ten workers look at the schedules at once, until all up to this tick is decided and enqueued."""
    async with anyio.create_task_group() as tickers:
        for _ in range(10):
            ticker = Ticker(app.backend, store, app.schedules.static, desk=app, poll=inf)
            tickers.start_soon(ticker.run)
        with anyio.fail_after(SOON):
            while True:
                states = [listed.state for listed in await app.schedules.list()]
                if all(state.last == last and not state.pending for state in states):
                    break
                await anyio.sleep(0.01)
        tickers.cancel_scope.cancel()


def there_are(started: Sequence[int], many: int) -> bool:
    return len(started) >= many


@pytest.mark.long
@AS_04
async def test_as_04_each_overlap_policy_starts_what_it_says(
    anywhere: str, options: Any, starts: Sequence[int], skipped: int
) -> None:
    app = App(anywhere, slots=10, grace=0.1)
    started: list[int] = []
    running: dict[str, tuple[int, anyio.Event]] = {}

    @app.schedule("*/5 * * * *", name="report", **options)
    @app.task(retry=Retry.never())
    async def report() -> None:
        started.append(minute)
        running[current().id] = minute + 12, anyio.Event()
        try:
            await running[current().id][1].wait()
        finally:
            del running[current().id]
        if "block_while_failed" in options:
            raise ValueError("by the test")

    async def end(job: str) -> None:
        running[job][1].set()
        with anyio.fail_after(SOON):
            while (found := await app.admin.lookup(JobRef("default", job))) is not None and found.state != "dead":  # noqa: ASYNC110 - as above
                await anyio.sleep(0.01)

    async with app, app.working(schedules=False):
        noon, minute = datetime(2026, 3, 2, 12, tzinfo=UTC), -1
        store = ByHand(app.store, noon - timedelta(seconds=1))
        await fire(app, store, store.now)
        for minute in range(60):
            store.now = noon.timestamp() + 60 * minute
            for job in [job for job, (until, _) in running.items() if until <= minute]:
                await end(job)
            if minute % 5 == 0:
                await fire(app, store, store.now)
            await wait_until(partial(there_are, started, sum(start <= minute for start in starts)))
        assert started == starts
        told = [decided.verdict for decided in (await app.schedules.find("report")).state.history]
        assert (len(told), told.count("skipped")) == (12, skipped)


AT_ONE = sorted(
    {zone for zone in ZONES if offset(ZoneInfo(zone), NIGHT + 3599) != offset(ZoneInfo(zone), NIGHT + 3600)}
)[:50]
"""Fifty zones whose clocks go forward in this night at one, by UTC."""


@pytest.mark.long
@AS_47
async def test_as_47_each_tick_fires_once_over_an_outage_and_a_change_of_the_clocks(
    anywhere: str, options: Any, made_up: Sequence[str]
) -> None:
    app, berlin = App(anywhere), ZoneInfo("Europe/Berlin")
    ran = {zone: list[str]() for zone in AT_ONE}

    @app.task
    async def report(zone: str) -> None:
        tick = current().tick
        assert tick is not None
        ran[zone].append(f"{tick.astimezone(berlin):%H:%M}")

    for zone in AT_ONE:
        app.schedules.add(zone.replace("/", "."), report.call(zone), "*/15 * * * *", tz=zone, **options)

    def at(clock: str) -> float:
        return datetime.fromisoformat(f"2026-03-29T{clock}").replace(tzinfo=berlin).timestamp()

    async with app, app.working(schedules=False):
        store = ByHand(app.store, datetime(2026, 3, 29, 0, 30, tzinfo=berlin))
        for now, last in [*((each, each) for each in ("00:30", "00:45", "01:00", "01:15")), ("05:17", "05:15")]:
            store.now = at(now)
            await fire(app, store, at(last))
        store.now = at("05:30")
        await fire(app, store, store.now)
        expected = ["00:45", "01:00", "01:15", *made_up, "05:30"]
        await wait_until(lambda: all(len(ticks) >= len(expected) for ticks in ran.values()))
        with anyio.fail_after(SOON):
            while any(line.ready + line.leased for line in await app.admin.stats()):  # noqa: ASYNC110 - a server is asked
                await anyio.sleep(0.01)
        assert {zone: sorted(ticks) for zone, ticks in ran.items()} == dict.fromkeys(AT_ONE, expected)
        for listed in await app.schedules.list():
            assert sum(decided.count for decided in listed.state.history) == 3 + 12 + 1
