"""What jobs log and print: each record knows its job, and the last lines of those that are captured are kept."""

import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from taskq import App, current
from taskq.connect import connect
from taskq.errors import ConfigError
from taskq.job import JobRef
from taskq.joblog import kept_lines
from taskq.joblog.lines import Captured, Line, Ring
from taskq.joblog.recorder import Capture, Recorder
from taskq.joblog.sources import hear_streams
from taskq.retry import Retry
from taskq.testing import VirtualClock, run_until_idle
from tests.worker.cpu import chat, wait_for
from tests.worker.moves import SOON, a_delivery
from tests.worker.tap import Tap, TappedStore

pytestmark = pytest.mark.anyio

log = logging.getLogger("shop")
say = print


async def texts(app: App, ref: JobRef) -> Sequence[tuple[int, str, str]]:
    """Attempt, source and text of what is kept of a job."""
    found = await kept_lines(app.store, ref)
    return [] if found is None else [(line.attempt, line.source, line.text) for line in found.lines]


def left_in(directory: Path) -> Sequence[Path]:
    return list(directory.iterdir())


# Records


async def test_every_record_of_a_job_tells_of_which_job_it_is(caplog: pytest.LogCaptureFixture) -> None:
    app = App("memory://")

    @app.task(queue="mail")
    async def send() -> str:
        # Names that are also ours, as a handler may choose them.
        log.warning("on its way", extra={"job": "mine", "task": "mine"})
        await anyio.to_thread.run_sync(log.warning, "in a thread")
        return current().id

    @app.task(queue="mail")
    def sync() -> None:
        log.warning("sync")

    async with app:
        job, _ = await send.defer(), await sync.defer()
        log.warning("outside")
        await run_until_idle(app)
    told = {record.message: vars(record) for record in caplog.records if record.name == "shop"}
    assert (told["on its way"]["taskq_job"], told["on its way"]["job"]) == (job.id, "mine")
    fields = ("taskq_task", "taskq_queue", "taskq_attempt")
    assert [told["in a thread"][name] for name in fields] == [send.name, "mail", 1]
    assert told["sync"]["taskq_task"] == sync.name
    assert "taskq_job" not in told["outside"]


# Lines


async def test_what_a_job_logs_and_prints_is_kept_with_that_of_its_earlier_attempts(url: str) -> None:
    app = App(url, redact=lambda text: text.replace("secret", "***"))

    @app.task(capture=10_000, retry=Retry.fixed(2, 0.0))
    async def chat() -> None:
        say("half", end="")
        say(" and half\n\x1b[31msecret")
        say("no end", end="", file=sys.stderr)
        log.error("%d sheets", 3, exc_info=ValueError("no ink"))
        raise RuntimeError

    @app.task(capture=10_000)
    def sync() -> None:
        say("in a thread")

    @app.task
    async def silent() -> None:
        say("not kept")

    async with app:
        one, two, three = await chat.defer(), await sync.defer(), await silent.defer()
        await run_until_idle(app, until="empty")
        found = await texts(app, one.ref)
        first = [(source, text) for attempt, source, text in found if attempt == 1]
        assert first[:3] == [("stdout", "half and half"), ("stdout", "\x1b[31m***"), ("error", "3 sheets")]
        assert first[-2:] == [("error", "ValueError: no ink"), ("stderr", "no end")]
        assert [(source, text) for attempt, source, text in found if attempt == 2] == first
        assert await texts(app, two.ref) == [(1, "stdout", "in a thread")]
        assert await kept_lines(app.store, three.ref) is None
        assert await one.status() == "failed"


@pytest.mark.parametrize("dies", [False, True])
async def test_a_process_of_its_own_is_heard_to_its_last_word(
    dies: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("taskq.signs.IN_MEMORY", str(tmp_path))
    app = App("memory://", redact=lambda text: text.replace("3 sheets", "*"))
    task = app.task(executor="process", capture=1_000_000, keep=60, retry=Retry.never())(chat)
    async with app:
        job = await task.defer(dies)
        await run_until_idle(app)
        assert await texts(app, job.ref) == [
            (1, "stdout", "half and half"),
            (1, "stdout", "x" * 2000),
            (1, "info", "* \\udc80"),
            (1, "stderr", "no end"),
        ]
        assert await job.status() == ("failed" if dies else "returned")
    assert left_in(tmp_path) == []


async def test_a_process_of_its_own_is_heard_while_it_runs_and_its_records_know_their_job(tmp_path: Path) -> None:
    app, gate = App("memory://"), tmp_path / "gate"
    task = app.task(executor="process", capture=1000)(wait_for)
    async with app, app.working():
        job = await task.defer(str(gate))
        with anyio.fail_after(SOON):
            while not await texts(app, job.ref):  # noqa: ASYNC110 - it can only be asked after
                await anyio.sleep(0.01)
        gate.touch()
        assert await job.result(SOON) == job.id


async def test_the_lines_of_a_job_can_be_read_while_it_runs(url: str) -> None:
    app, gate = App(url), anyio.Event()

    @app.task(capture=1000)
    async def wait() -> None:
        log.warning("waiting")
        await gate.wait()

    async with app:
        async with app.working():
            job = await wait.defer()
            found = None
            with anyio.fail_after(SOON):
                while found is None:
                    await anyio.sleep(0.01)
                    found = await kept_lines(app.store, job.ref)
            assert found.open
            gate.set()
        found = await kept_lines(app.store, job.ref)
        assert found is not None
        assert not found.open


async def test_a_chatty_job_costs_one_write_a_second(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", capture=2000)

    @app.task
    async def chat() -> None:
        for number in range(1000):
            say(f"line {number}")
            await anyio.sleep(0.01)

    @app.task
    async def silent() -> None: ...

    async with app, app.working():
        job, _ = await chat.defer(), await silent.defer()
        await clock.advance(30)
        writes = [key for key in tap.swapped if key.startswith("log:")]
        assert set(writes) == {f"log:default:{job.id}"}
        assert len(writes) in (10, 11, 12)
        found = await kept_lines(app.store, job.ref)
        assert found is not None
        assert found.lines[-1].text == "line 999"
        assert found.behind == 1000
        assert 1500 < sum(line.size for line in found.lines) <= 2000


async def test_lines_wait_for_a_store_that_is_away(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", capture=2000)

    @app.task
    async def tell(text: str) -> None:
        say(text)

    async with app, app.working():
        job = await tell.defer("first")
        tap.store_is_away = True
        await clock.advance(10)
        tap.store_is_away = False
        await clock.advance(2)
        assert await texts(app, job.ref) == [(1, "stdout", "first")]


async def test_a_run_that_was_overtaken_writes_no_more() -> None:
    async with connect("memory://") as backend:
        assert backend.store is not None
        recorder, store = Recorder(backend.store, None), backend.store
        told: list[Capture] = []
        runs = [
            Capture(a_delivery("a", now=now, attempt=n), 1000, None, told.append) for n, now in ((1, 1.0), (2, 2.0))
        ]
        for run in (*runs, runs[0], runs[1]):
            run.add(0.0, "info", "", "said")
            recorder.note(run)
            await recorder.write_all()
        found = await kept_lines(store, JobRef("default", "a"))
        assert found is not None
        assert [line.attempt for line in found.lines] == [1, 2, 2]
        assert runs[0].overtaken


async def test_a_worker_that_ends_while_it_writes_keeps_the_lines_of_each_run_of_a_job(tap: Tap) -> None:
    async with connect("memory://") as backend:
        assert backend.store is not None
        recorder = Recorder(TappedStore(tap, backend.store), None)
        tap.swapping = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run)
            for attempt in (1, 2):
                run = Capture(a_delivery("a", now=attempt, attempt=attempt), 1000, None, recorder.note)
                run.add(0.0, "info", "", "said")
                await anyio.wait_all_tasks_blocked()
            tap.swapping.set()
            tasks.cancel_scope.cancel()
        found = await kept_lines(backend.store, JobRef("default", "a"))
        assert found is not None
        assert [line.attempt for line in found.lines] == [1, 2]


def test_a_ring_holds_the_last_lines_and_counts_those_before() -> None:
    ring = Ring(500)
    for number in range(100):
        ring.add(Line(0.0, 1, "info", "", f"{number:060}"))
    assert [int(line.text) for line in ring.lines] == [95, 96, 97, 98, 99]
    assert (ring.first, ring.behind) == (95, 100)
    earlier = Captured([Line(0.0, 1, "info", "", "earlier")], first=3)
    assert ring.following(earlier).first == 4 + 95
    short = Ring(500, [Line(0.0, 2, "info", "", "now")])
    assert [line.text for line in short.following(earlier).lines] == ["earlier", "now"]


def test_text_of_any_kind_is_bounded_and_can_be_stored() -> None:
    capture = Capture(a_delivery(), 5000, None, lambda _: None)
    capture.add(0.0, "info", "x", "")
    capture.add(0.0, "info", "x", "\udcff\0")
    capture.add(0.0, "info", "x", "x" * 100_000)
    capture.write("stdout", "y" * 100_000)
    assert len(capture.value()) < 10_000
    capture.close()
    before = capture.value()
    capture.add(0.0, "info", "x", "too late")
    assert capture.value() == before


async def test_a_record_whose_arguments_do_not_fit_is_kept_as_it_is() -> None:
    app = App("memory://", capture=1000)

    @app.task
    async def wrong() -> None:
        logging.getLogRecordFactory()("shop", logging.WARNING, "", 1, "%d sheets", ("no",), None)

    async with app:
        job = await wrong.defer()
        await run_until_idle(app, raise_failures=True)
        assert await texts(app, job.ref) == [(1, "warning", "'%d sheets' ('no',)")]


# Streams


def test_the_streams_are_heard_once_and_go_where_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "stderr", None)
    hear_streams()
    tee = sys.stdout
    hear_streams()
    assert sys.stdout is tee
    tee.writelines(["of no", " job\n"])
    assert tee.isatty() is False
    assert (printed.getvalue(), sys.stderr) == ("of no job\n", None)


@pytest.mark.parametrize("capture", [-1, 2**21, "1 kB", True, 1.5])
def test_what_is_no_number_of_bytes_is_refused(capture: object) -> None:
    with pytest.raises(ConfigError, match="capture"):
        App("memory://").task(capture=capture)(lambda: None)  # type: ignore[call-overload]  # what a caller may do
