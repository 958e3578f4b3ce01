"""Schedules through the whole line, under the virtual clock."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest

from taskq import App, Tasks, current
from taskq.audit import acts_since
from taskq.errors import InvalidSchedule, UnknownTask
from taskq.events import JobFinished, TickDecided
from taskq.job import JobRef
from taskq.retry import Retry
from taskq.testing import VirtualClock, run_until_idle, upcoming
from taskq.worker.ticker import HELP_AFTER, Ticker
from taskq.worker.worker import Worker
from tests.worker.moves import heard

pytestmark = pytest.mark.anyio

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the clock of the memory backends opened from now on."""

    def at(moment: datetime) -> None:
        monkeypatch.setattr("taskq.memory.time", SimpleNamespace(time=moment.timestamp))

    # A second before the hour, so that whole minutes later whole minutes are over.
    at(datetime(2026, 3, 2, 11, 59, 59, tzinfo=BERLIN))
    return at


@pytest.fixture
def app(at: Any) -> App:  # noqa: ARG001 - it sets the clock
    return App("memory://", slots=10)


async def verdicts(app: App, name: str) -> list[str]:
    return [decided.verdict for decided in (await app.schedules.find(name)).state.history]


AS_04 = pytest.mark.parametrize(
    ("options", "starts", "skipped"),
    [
        ({"overlap": "allow"}, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55], 0),
        ({"overlap": "skip"}, [0, 15, 30, 45], 8),
        ({"overlap": "queue_one"}, [0, 12, 24, 36, 48], 6),
        ({"overlap": "cancel_previous"}, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55], 0),
        ({"block_while_failed": True}, [0, 5, 10], 9),
    ],
)
"""A job of twelve minutes, due every five, for an hour: the minutes in which it starts, and how many ticks do not."""

AS_47 = pytest.mark.parametrize(
    ("options", "made_up"),
    [
        ({"misfire": "skip"}, []),
        ({"misfire": "latest"}, ["05:15"]),
        (
            {"misfire": "all", "limit": 10},
            ["03:00", "03:15", "03:30", "03:45", "04:00", "04:15", "04:30", "04:45", "05:00", "05:15"],
        ),
    ],
)
"""Due each quarter of an hour, with nobody there from 01:17 until 05:17, when the clocks go forward: what runs then."""


@AS_04
async def test_each_overlap_policy_starts_what_it_says_and_tells_every_decision(
    clock: VirtualClock, app: App, options: dict[str, Any], starts: list[int], skipped: int
) -> None:
    started: list[float] = []
    events = heard(app, TickDecided)

    @app.schedule("*/5 * * * *", name="report", **options)
    @app.task(retry=Retry.never())
    async def report() -> None:
        started.append(clock.time())
        await anyio.sleep(720)
        if "block_while_failed" in options:
            raise ValueError("by the test")

    async with app, app.working():
        began = clock.time() + 1
        await clock.advance(minutes=60)
        assert [round((moment - began) / 60) for moment in started] == starts
        told = await verdicts(app, "report")
        assert (len(told), told.count("skipped")) == (12, skipped)
        became = {"queue_one": "queued", "cancel_previous": "cancelled_previous"}.get(
            options.get("overlap", ""), "fired"
        )
        assert [event.verdict for event in events if event.verdict != "skipped"] == [
            "fired",
            *[became] * (11 - skipped),
        ]
        assert len({event.tick for event in events}) == len(events) == 12


async def test_a_schedule_that_was_blocked_goes_on_when_its_dead_letter_is_gone(clock: VirtualClock, app: App) -> None:
    ran: list[str] = []

    @app.schedule("every 1m", name="report", block_while_failed=True)
    @app.task(retry=Retry.never())
    async def report() -> None:
        ran.append(current().id)
        if len(ran) == 1:
            raise ValueError("by the test")

    async with app, app.working():
        await clock.advance(minutes=3)
        assert await verdicts(app, "report") == ["fired", "skipped", "skipped"]
        (dead,) = await app.admin.list_jobs("default", "dead", after=None, limit=9)
        await app.admin.revive([JobRef("default", dead.job.id)])
        await clock.advance(minutes=1)
        # It ran again, although its tick had run before, and the next one fired.
        assert [ran[0] == ran[1], len(ran)] == [True, 3]


# What a tick's job is


async def test_a_ticks_job_knows_its_moment_and_gets_its_arguments(clock: VirtualClock, app: App) -> None:
    ran: list[tuple[str, Any]] = []

    @app.schedule("0 3 * * *", tz="Europe/Berlin", args={"city": "Berlin"})
    @app.task(name="report", queue="reports")
    async def report(city: str) -> None:
        ran.append((city, current().tick))

    app.schedules.add("tokyo", report.options(queue="other").call("Tokyo"), "0 3 * * *", tz="Asia/Tokyo")
    async with app, app.working(queues=["reports", "other"]):
        await clock.advance(days=1)
        assert ran == [
            ("Tokyo", datetime(2026, 3, 3, 3, tzinfo=ZoneInfo("Asia/Tokyo"))),
            ("Berlin", datetime(2026, 3, 3, 3, tzinfo=BERLIN)),
        ]
        assert [listed.schedule.name for listed in await app.schedules.list()] == ["report", "tokyo"]


async def test_a_jittered_tick_starts_later_and_all_workers_agree_when(clock: VirtualClock, app: App) -> None:
    waits: list[float] = []

    @app.schedule("every 1h", jitter=timedelta(minutes=10))
    @app.task
    async def report() -> None:
        tick = current().tick
        assert tick is not None
        waits.append(clock.time() % 3600)

    async with app, app.working(), app.working():
        await clock.advance(hours=24)
    assert len(waits) == 24
    assert len({round(wait) for wait in waits}) > 12
    assert max(waits) < 600.1


async def test_schedules_of_a_collection_and_of_the_configuration_fire(
    clock: VirtualClock,
    at: Any,  # noqa: ARG001 - it sets the clock
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "taskq.toml").write_text(
        """
        [[schedules]]
        task = "mail.report"
        name = "berlin"
        when = "*/5 * * * *"
        tz = "Europe/Berlin"
        except = [2026-12-24, "* * * * SAT,SUN"]
        args = {city = "Berlin"}
        """
    )
    monkeypatch.chdir(tmp_path)
    app = App("memory://")
    tasks = Tasks()
    ran: list[str] = []

    @tasks.schedule("every 5m", name="tokyo", args={"city": "Tokyo"})
    @tasks.task(name="mail.report")
    async def report(city: str) -> None:
        ran.append(city)

    app.include(tasks)
    async with app, app.working():
        await clock.advance(minutes=5, seconds=1)
        assert sorted(ran) == ["Berlin", "Tokyo"]
        assert report.name == "mail.report"


# Operating


async def test_a_schedule_made_at_run_time_fires_on_a_worker_that_runs_already(clock: VirtualClock, app: App) -> None:
    ran: list[str] = []

    @app.task
    async def report(city: str) -> None:
        ran.append(city)

    async with app, app.working():
        await clock.advance(minutes=1)
        await app.schedules.create("berlin", report.call("Berlin"), "every 10s")
        await app.schedules.create("berlin", report.call("Berlin"), "every 10s")
        with pytest.raises(InvalidSchedule, match="replace=True"):
            await app.schedules.create("berlin", report.call("Berlin"), "every 20s")
        await clock.advance(seconds=31)
        assert ran == ["Berlin"] * 3
        await app.schedules.create("berlin", report.call("Bonn"), "every 30s", replace=True, by="ada")
        await clock.advance(minutes=1)
        assert ran == ["Berlin"] * 3 + ["Bonn"] * 2
        assert await app.schedules.remove("berlin", by="bob")
        assert not await app.schedules.remove("berlin", by="bob")
        await clock.advance(minutes=5)
        assert len(ran) == 5
        assert list(await app.schedules.list()) == []
        # What changed nothing is no act; what was removed is remembered.
        assert [(act.by, act.verb, act.what, act.details) for act in await acts_since(app.store, 3600)] == [
            ("", "create", "schedule berlin", f"every 10s: {report.name}"),
            ("ada", "replace", "schedule berlin", f"every 30s: {report.name}"),
            ("bob", "remove", "schedule berlin", ""),
        ]


async def test_a_paused_schedule_rests_and_makes_up_for_nothing(clock: VirtualClock, app: App) -> None:
    ran: list[str] = []

    @app.schedule("every 1m", name="report", misfire="all")
    @app.task
    async def report() -> None:
        ran.append(current().id)

    async with app, app.working():
        await app.schedules.pause("report", by="ada")
        await clock.advance(minutes=3)
        assert ran == []
        await app.schedules.resume("report")
        await clock.advance(minutes=1)
        assert len(ran) == 1
        enqueued = await app.schedules.run("report")
        await clock.advance()
        assert ran[1:] == [enqueued.id]
        assert await verdicts(app, "report") == ["paused", "resumed", "fired", "run"]
        told = (await app.schedules.find("report")).state.history
        assert [(decided.verdict, decided.by) for decided in told if decided.by] == [("paused", "ada")]
        with pytest.raises(InvalidSchedule, match="known: report"):
            await app.schedules.pause("reprot")


async def test_working_off_what_is_there_fires_nothing(clock: VirtualClock, app: App) -> None:
    @app.schedule("every 1s")
    @app.task
    async def report() -> None: ...

    async with app:
        await report.options(delay=60).defer()
        assert len((await run_until_idle(app, until="empty")).finished) == 1
        assert clock.time() >= 60


async def test_what_a_job_of_a_tick_is_refused_for_stands_in_the_history(clock: VirtualClock, app: App) -> None:
    events = heard(app, TickDecided)

    @app.schedule("every 1m", name="report")
    @app.task(unique="one", on_conflict="raise")
    async def report() -> None: ...

    async with app, app.working(queues=["none"]):
        first = await report.defer()
        await clock.advance(minutes=1)
        (refused,) = (await app.schedules.find("report")).state.history
        assert (refused.verdict, first.id in refused.reason) == ("refused", True)
    assert [(event.verdict, event.reason) for event in events] == [("refused", refused.reason)]


# Without a leader


@AS_47
async def test_ten_workers_and_then_ten_others_fire_each_tick_once_over_an_outage_and_a_change_of_the_clocks(
    clock: VirtualClock, at: Any, options: dict[str, Any], made_up: list[str]
) -> None:
    at(datetime(2026, 3, 29, 0, 30, tzinfo=BERLIN))
    app = App("memory://")
    ran: list[str] = []
    events = heard(app, TickDecided)

    @app.schedule("*/15 * * * *", name="report", tz="Europe/Berlin", **options)
    @app.task
    async def report() -> None:
        tick = current().tick
        assert tick is not None
        ran.append(f"{tick.astimezone(BERLIN):%H:%M}")

    async with app:
        async with ten_workers(app) as workers:
            await clock.advance(minutes=20)
            for worker in workers[:5]:
                worker.drain()
            async with ten_workers(app):
                await clock.advance(minutes=27)
        assert ran == ["00:45", "01:00", "01:15"]
        await clock.advance(hours=3)
        async with ten_workers(app):
            await clock.advance(minutes=15)
        assert sorted(ran[3:]) == [*made_up, "05:30"]
        told = (await app.schedules.find("report")).state.history
        assert sum(decided.count for decided in told) == 3 + 12 + 1
    # The twenty tell of each tick once, and how late it was: those of the outage at 05:17.
    assert sum(event.count for event in events) == 3 + 12 + 1
    late = [round(event.late / 60) for event in events if event.verdict == "fired"]
    assert sorted(late) == [0] * 4 + [2 + 15 * n for n in range(len(made_up))]


@asynccontextmanager
async def ten_workers(app: App) -> AsyncGenerator[list[Worker]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(app.working()) for _ in range(10)]


async def test_what_a_dead_worker_decided_is_carried_out_by_another_one(
    clock: VirtualClock, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    events = heard(app, TickDecided)

    @app.schedule("every 1h", name="report", overlap="skip")
    @app.task
    async def report() -> None:
        ran.append(current().id)

    async def die(*_: Any) -> None:
        await anyio.sleep_forever()

    async with app:
        with monkeypatch.context() as patch:
            patch.setattr(Ticker, "_fire", die)
            async with app.working(queues=["none"]):
                await clock.advance(minutes=1)
        assert ran == []
        assert events == []
        async with app.working():
            await clock.advance(seconds=HELP_AFTER)
            (first,) = ran
            await clock.advance(hours=1)
            assert len(ran) == 2
            assert ran[0] == first
            assert await verdicts(app, "report") == ["fired", "fired"]
    assert [(event.verdict, event.late > HELP_AFTER) for event in events] == [("fired", True), ("fired", False)]


async def test_a_worker_that_slept_over_a_tick_does_not_fire_it_again(
    clock: VirtualClock, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    ends: list[str] = []

    @app.schedule("every 1h", name="report")
    @app.task
    async def report() -> None:
        ran.append(current().id)

    fire = Ticker._fire  # pyright: ignore[reportPrivateUsage] - where a worker is made to sleep

    async def sleep(*arguments: Any) -> Any:
        await anyio.sleep(1800)
        return await fire(*arguments)

    app.events.subscribe(JobFinished, lambda event: ends.append(event.end))
    async with app:
        with monkeypatch.context() as patch:
            patch.setattr(Ticker, "_fire", sleep)
            async with app.working(queues=["none"]):
                await clock.advance(minutes=1)
                patch.undo()
                async with app.working():
                    # One is asleep with the tick in its hands; the other helps, and the job ends.
                    await clock.advance(minutes=1)
                    assert ends == ["returned"]
                    await clock.advance(minutes=30)
        assert ends == ["returned", "discarded"]
        assert len(ran) == 1


# In tests


async def test_a_test_can_ask_when_a_schedule_is_due_without_a_broker() -> None:
    app = App("redis://nowhere.invalid", schedules=[{"task": "report", "name": "weekly", "when": "0 9 * * MON"}])

    @app.schedule("30 2 * * *", name="nightly", tz="Europe/Berlin")
    @app.task(name="report")
    async def report() -> None: ...

    before = datetime(2026, 3, 28, tzinfo=BERLIN)
    assert upcoming(app, "nightly", 3, after=before) == [
        datetime(2026, 3, 28, 2, 30, tzinfo=BERLIN),
        datetime(2026, 3, 29, 3, 0, tzinfo=BERLIN),
        datetime(2026, 3, 30, 2, 30, tzinfo=BERLIN),
    ]
    assert all(moment > datetime.now(UTC) for moment in upcoming(app, "weekly"))
    with pytest.raises(InvalidSchedule, match="known: nightly, weekly"):
        upcoming(app, "weakly")
    with pytest.raises(InvalidSchedule, match="no time zone"):
        upcoming(app, "weekly", after=datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused


# Bad input


async def test_what_does_not_fit_is_refused_where_it_is_said(at: Any) -> None:  # noqa: ARG001 - it sets the clock
    app = App("memory://")

    @app.task(name="report")
    async def report(city: str) -> None: ...

    with pytest.raises(InvalidSchedule, match="city"):
        app.schedule("* * * * *")(report)
    with pytest.raises(InvalidSchedule, match="city"):
        app.schedule("* * * * *", args={"city": 5})(report)
    with pytest.raises(InvalidSchedule, match=r"above @app\.task"):
        app.schedule("* * * * *")(len)  # type: ignore[arg-type]
    app.schedule("* * * * *", args={"city": "a"})(report)
    with pytest.raises(InvalidSchedule, match="a name="):
        app.schedule("* * * * *", args={"city": "a"})(report)
    with pytest.raises(InvalidSchedule, match="another name"):
        app.schedules.add("report", report.call("a"), "* * * * *")
    async with app:
        with pytest.raises(InvalidSchedule, match="code of this app"):
            await app.schedules.create("report", report.call("a"), "* * * * *")
    with pytest.raises(InvalidSchedule, match="no cron text"):
        App("memory://", schedules=[{"task": "report", "when": "61 * * * *"}])
    with pytest.raises(InvalidSchedule, match="the name of a task"):
        App("memory://", schedules=[{"when": "* * * * *"}])
    with pytest.raises(UnknownTask, match="report"):
        async with App("memory://", schedules=[{"task": "report", "when": "* * * * *"}]):
            pass
