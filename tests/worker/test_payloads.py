"""Calls too large for the broker are kept elsewhere, and gone when their jobs have ended."""

import sys
from pathlib import Path

import pytest

from taskq import App, current
from taskq.errors import ConfigError, PartlyEnqueued, PayloadTooLarge
from taskq.events import JobFinished
from taskq.job import JobRef
from taskq.payloads import TICKET
from taskq.retry import Retry
from taskq.testing import run_until_idle
from tests.worker.cupboard import SHUT
from tests.worker.moves import SOON, heard
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio

LARGE = "x" * 2_000_000


class Cupboard:
    """Where the calls are, seen from outside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.url = f"cupboard://{directory}"

    @property
    def names(self) -> set[str]:
        return {path.name for path in self._directory.iterdir()}

    def shut(self) -> None:
        (self._directory / SHUT).touch()

    def open(self) -> None:
        (self._directory / SHUT).unlink()

    def lose(self) -> None:
        for path in self._directory.iterdir():
            path.unlink()


@pytest.fixture
def cupboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cupboard:
    """``cupboard://`` answers, found by its entry point."""
    metadata = tmp_path / "taskq_cupboard-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: taskq-cupboard\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[taskq.payloads]\ncupboard = tests.worker.cupboard:connect\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "cupboard").mkdir()
    return Cupboard(tmp_path / "cupboard")


def with_tasks(url: str, place: str | None) -> App:
    app = App(url, payloads=place, payload_size=3_000_000)

    @app.task(name="size", keep=60)
    async def size(text: str) -> int:
        return len(text)

    @app.task(name="late", keep=60, retry=Retry.fixed(2, 0))
    async def late(text: str) -> int:
        if current().attempt == 1:
            raise RuntimeError
        return len(text)

    @app.task(name="never", keep=60, retry=1)
    async def never(text: str = "") -> int:
        raise RuntimeError(str(len(text)))

    return app


async def ticket(app: App, ref: JobRef) -> str:
    record = await app.lookup(ref)
    assert record is not None
    assert len(record.job.body) < 100
    return record.job.headers[TICKET]


@pytest.mark.parametrize("task", ["size", "late"])
async def test_a_large_call_runs_and_leaves_nothing(url: str, cupboard: Cupboard, task: str) -> None:
    app = with_tasks(url, cupboard.url)
    async with app:
        job = await app.find_task(task).defer(LARGE)
        assert cupboard.names == {await ticket(app, job.ref)}
        await run_until_idle(app)
        assert await job.result(0) == len(LARGE)
    assert cupboard.names == set()


async def test_the_store_of_another_database_will_do(url: str, tmp_path: Path) -> None:
    app = with_tasks(url, f"sqlite:///{tmp_path / 'payloads.db'}")
    async with app:
        job = await app.find_task("size").defer(LARGE)
        await run_until_idle(app)
        assert await job.result(0) == len(LARGE)


async def test_a_small_call_stays_with_its_job(url: str, cupboard: Cupboard) -> None:
    app = with_tasks(url, cupboard.url)
    async with app:
        job = await app.find_task("size").defer("small")
        record = await app.lookup(job.ref)
        assert record is not None
        assert (record.job.body, record.job.headers) == (b'{"v":1,"args":{"text":"small"}}', {})
    assert cupboard.names == set()


async def test_a_larger_call_than_is_to_be_kept_is_refused(url: str, cupboard: Cupboard) -> None:
    app = with_tasks(url, cupboard.url)
    async with app:
        with pytest.raises(PayloadTooLarge, match="the broker 3,000,000"):
            await app.find_task("size").defer("x" * 3_000_000)
    assert cupboard.names == set()


async def test_large_calls_go_with_others_in_bulk_and_on_through_a_chain(url: str, cupboard: Cupboard) -> None:
    app = with_tasks(url, cupboard.url)
    size = app.find_task("size")

    @app.task
    async def grow(n: int) -> str:
        return "y" * n

    async with app:
        jobs = await app.defer_many(size.call("x" * n) for n in (1, 2_000_000, 2))
        flow = await app.defer(grow.call(2_000_000).then(size))
        await run_until_idle(app)
        assert [await job.result(0) for job in jobs] == [1, 2_000_000, 2]
        assert await flow.result(SOON) == 2_000_000
    assert cupboard.names == set()


async def test_a_dead_letter_keeps_its_call_to_be_revived(url: str, cupboard: Cupboard) -> None:
    app = with_tasks(url, cupboard.url)
    finished = heard(app, JobFinished)
    async with app:
        job = await app.find_task("never").defer(LARGE)
        for _ in range(2):
            await run_until_idle(app)
            assert len(cupboard.names) == 1
            assert list(await app.admin.revive([job.ref])) == ["revived"]
        assert [str(event.error) for event in finished] == [str(len(LARGE))] * 2
        await job.cancel()
        await run_until_idle(app)
    assert cupboard.names == set()


async def test_a_call_that_was_not_added_is_not_kept(url: str, cupboard: Cupboard) -> None:
    app = with_tasks(url, cupboard.url)
    size = app.find_task("size")
    async with app:
        first = await size.options(id="a", unique="k").defer(LARGE)
        assert not (await size.options(id="a").defer(LARGE + "2")).added
        assert not (await size.options(unique="k").defer(LARGE + "3")).added
        assert cupboard.names == {await ticket(app, first.ref)}
        assert (await size.options(unique="k", on_conflict="replace").defer(LARGE + "45")).id == "a"
        await run_until_idle(app)
        assert await first.result(0) == len(LARGE) + 2


async def test_a_call_of_which_nobody_knows_is_kept(tap: Tap, cupboard: Cupboard) -> None:
    app = with_tasks("memory://", cupboard.url)
    size = app.find_task("size")
    async with app:
        tap.away = {"away"}
        with pytest.raises(PartlyEnqueued):
            await app.defer_many(size.options(queue=queue).call(LARGE) for queue in ("here", "away"))
        assert len(cupboard.names) == 2


async def test_in_a_transaction_a_call_is_kept_until_the_commit(tmp_path: Path, cupboard: Cupboard) -> None:
    app = App(f"sqlite:///{tmp_path / 'taskq.db'}", payloads=cupboard.url)
    seen: list[tuple[int, int]] = []

    @app.task(transaction=True, retry=Retry.fixed(2, 0))
    async def write(text: str) -> None:
        seen.append((len(text), len(cupboard.names)))
        if len(seen) == 1:
            raise RuntimeError

    async with app:
        await write.defer(LARGE)
        await run_until_idle(app)
    assert seen == [(len(LARGE), 1)] * 2
    assert cupboard.names == set()


async def test_a_job_waits_while_its_call_cannot_be_had(url: str, cupboard: Cupboard) -> None:
    app = with_tasks(url, cupboard.url)
    async with app:
        job = await app.find_task("size").defer(LARGE)
        cupboard.shut()
        assert await app.backend.broker.fetch(["default"], 1, lease=30, wait=0) == []
        record = await app.lookup(job.ref)
        assert record is not None
        assert (record.state, record.attempt) == ("later", 1)
        with pytest.raises(Exception, match="the cupboard is shut"):
            await app.find_task("size").defer(LARGE)
        cupboard.open()


@pytest.mark.parametrize("how", ["lapsed", "untold"])
async def test_a_job_whose_call_is_not_here_is_set_aside_with_the_remedy(
    tmp_path: Path, cupboard: Cupboard, how: str
) -> None:
    url = f"sqlite:///{tmp_path / 'taskq.db'}"
    async with with_tasks(url, cupboard.url) as app:
        # It could be called without arguments, and must not be.
        job = await app.find_task("never").defer(LARGE)
    if how == "lapsed":
        cupboard.lose()
    worker = with_tasks(url, None if how == "untold" else cupboard.url)
    async with worker:
        await run_until_idle(worker)
        record = await worker.lookup(job.ref)
        assert record is not None
        assert record.state == "dead"
        assert record.outcome is not None
        assert b"was not told by payloads= where that is" in record.outcome


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("elsewhere", "the setting payloads is no URL"),
        ("nowhere://host", "no backend answers to nowhere://"),
    ],
)
async def test_a_place_that_is_none_is_refused_when_the_app_opens(url: str, place: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        async with App(url, payloads=place):
            pass


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="'payloads'"):
        App("memory://", payloads=5)
    with pytest.raises(ConfigError, match="'payload_size'"):
        App("memory://", payload_size=0)
    with pytest.raises(ConfigError, match="'payload_keep'"):
        App("memory://", payload_keep=0)
