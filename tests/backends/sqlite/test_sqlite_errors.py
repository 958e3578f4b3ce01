"""What the driver raises, and what a file can be that no queue can live in."""

import os
import pwd
import sqlite3
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from taskq_sqlite import connect
from taskq_sqlite.broker import SqliteBroker
from taskq_sqlite.faults import LASTING, PASSING, translated, translating

from taskq.broker import Backend
from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable, ConfigError
from taskq.job import Ack, DeadLetter, Enqueued, Job

PRIMARY = {
    name: getattr(sqlite3, name)
    for name in dir(sqlite3)
    if name.startswith("SQLITE_") and isinstance(getattr(sqlite3, name), int)
}
# Not errors: what a step says when it succeeds, and what a log callback gets.
FINE = {"SQLITE_OK", "SQLITE_ROW", "SQLITE_DONE", "SQLITE_NOTICE", "SQLITE_WARNING"}


def codes() -> Iterator[tuple[str, int]]:
    """The result codes among the module's constants, which share their prefix with other things."""
    results = (
        "ABORT AUTH BUSY CANTOPEN CONSTRAINT CORRUPT EMPTY ERROR FORMAT FULL INTERNAL INTERRUPT IOERR LOCKED MISMATCH"
        " MISUSE NOLFS NOMEM NOTADB NOTFOUND PERM PROTOCOL RANGE READONLY SCHEMA TOOBIG"
    )
    for name, code in PRIMARY.items():
        if name not in FINE and name.removeprefix("SQLITE_").split("_")[0] in results.split():
            yield name, code


@pytest.mark.parametrize(("name", "code"), list(codes()))
def test_every_result_code_has_its_error_and_its_remedy(name: str, code: int) -> None:
    assert (code & 0xFF in PASSING) != (code & 0xFF in LASTING), name
    error = sqlite3.OperationalError("said the driver")
    error.sqlite_errorcode = code
    found = translated(error, "some.db")
    assert type(found) is (BrokerUnavailable if code & 0xFF in PASSING else BrokerRejected)
    assert found.__cause__ is error
    assert "see the cause" not in str(found)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that another user can reach."""
    with TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


def listing(path: Path) -> list[str]:
    return [file.name for file in path.iterdir()]


@contextmanager
def as_nobody() -> Generator[None]:
    """Without the rights of root, who may write everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


@asynccontextmanager
async def no_room(backend: Backend) -> AsyncGenerator[None]:
    """The file may not grow by more than a few pages."""
    assert isinstance(backend.broker, SqliteBroker)
    # The limit is the writing connection's own.
    lane = backend.broker._lane  # pyright: ignore[reportPrivateUsage]

    def limit(cursor: sqlite3.Cursor) -> int:
        pages: int = cursor.execute("PRAGMA page_count").fetchone()[0]
        was: int = cursor.execute("PRAGMA max_page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages + 5}")
        return was

    was = await lane.run(limit, alone=True)
    yield
    await lane.run(lambda cursor: cursor.execute(f"PRAGMA max_page_count = {was}").fetchall(), alone=True)


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


@pytest.mark.anyio
async def test_text_that_no_column_can_hold_is_refused(tmp_path: Path) -> None:
    text = "half a pair: \ud800"
    async with connect(f"sqlite:///{tmp_path}/a.db") as backend:
        assert backend.store is not None
        assert backend.hints is not None
        (answer,) = await backend.broker.enqueue([Job(id=text, task="t", body=b"")])
        assert isinstance(answer.error, BrokerRejected)
        for call in (
            backend.broker.fetch([text], 1, lease=1, wait=0),
            backend.store.get(text),
            backend.store.add("key", [text]),
            backend.hints.publish("news", text),
        ):
            with pytest.raises(BrokerRejected):
                await call


@pytest.mark.parametrize("kind", list(subclasses(sqlite3.Error)))
def test_every_error_class_of_the_driver_leaves_as_ours(kind: type[Exception]) -> None:
    with pytest.raises(BrokerError) as caught, translating("some.db"):
        raise kind("said the driver")
    assert isinstance(caught.value.__cause__, kind)


@pytest.mark.anyio
class TestOpening:
    async def test_a_directory_that_is_not_there_is_named_as_the_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(BrokerRejected, match=r"missing/a.db: .*directory must exist"):
            async with connect(f"sqlite:///{tmp_path}/missing/a.db"):
                pass

    async def test_a_file_that_is_no_database_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.db").write_bytes(b"a letter to a friend " * 100)
        with pytest.raises(BrokerRejected, match="no SQLite database: give another path") as caught:
            async with connect(f"sqlite:///{tmp_path}/a.db"):
                pass
        assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
        assert (tmp_path / "a.db").read_bytes().startswith(b"a letter")

    @pytest.mark.parametrize("mode", [0o444, 0o000])
    async def test_a_file_that_may_not_be_written_is_refused(self, mode: int, public_path: Path) -> None:
        async with connect(f"sqlite:///{public_path}/a.db"):
            pass
        (public_path / "a.db").chmod(mode)
        with as_nobody(), pytest.raises(BrokerRejected, match=r"read-only|must exist and be writable") as caught:
            async with connect(f"sqlite:///{public_path}/a.db"):
                pass
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError | PermissionError)

    async def test_a_damaged_file_is_refused_or_says_so_when_it_is_found(self, tmp_path: Path) -> None:
        path = tmp_path / "a.db"
        async with connect(f"sqlite:///{path}") as backend:
            await backend.broker.enqueue([Job(id=f"{n}", task="t", body=b"x" * 500) for n in range(200)])
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        with pytest.raises(BrokerRejected, match="damaged: restore it"):
            async with connect(f"sqlite:///{path}") as backend:
                await backend.broker.fetch(["default"], 200, lease=60, wait=0)

    async def test_tables_that_went_missing_are_reported(self, tmp_path: Path) -> None:
        async with connect(f"sqlite:///{tmp_path}/a.db") as backend:
            with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
                connection.execute("ALTER TABLE taskq_jobs RENAME TO elsewhere")
            with pytest.raises(BrokerRejected, match="lacks what taskq needs"):
                await backend.broker.enqueue([Job(id="a", task="t", body=b"")])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite://host/a.db", "names no file"),
        ("postgres:///a.db", "names no file"),
        ("sqlite:///{}/a.db?lease=3", "unknown option lease; sqlite knows synchronous, busy_timeout, max_size"),
        ("sqlite:///{}/a.db?synchronous=sometimes", "sometimes.*sqlite knows"),
        ("sqlite:///{}/a.db?max_size=large", "max_size.*sqlite knows"),
        ("sqlite:///{}/a.db?busy_timeout=-1", "at least 0"),
    ],
)
async def test_a_url_that_says_nothing_usable_is_refused(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        async with connect(url.format(tmp_path)):
            pass
    assert listing(tmp_path) == []


@pytest.mark.anyio
@pytest.mark.parametrize(("synchronous", "durability"), [("full", "disk"), ("normal", "seconds"), ("off", "process")])
async def test_what_a_commit_waits_for_is_what_the_traits_promise(
    synchronous: str, durability: str, tmp_path: Path
) -> None:
    async with connect(f"sqlite:///{tmp_path}/a.db?synchronous={synchronous}") as backend:
        assert backend.broker.traits.durability == durability
    async with connect(f"sqlite:///{tmp_path}/a.db", synchronous=synchronous) as backend:
        assert backend.broker.traits.durability == durability
    async with connect(f"sqlite:///{tmp_path}/a.db") as backend:
        assert backend.broker.traits.durability == "disk"


@pytest.mark.anyio
async def test_a_relative_path_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with connect("sqlite:///an%20app.db"):
        pass
    assert listing(tmp_path) == ["an app.db"]


@pytest.mark.anyio
async def test_on_a_full_disk_an_enqueue_fails_whole_and_what_runs_can_still_end(tmp_path: Path) -> None:
    async with connect(f"sqlite:///{tmp_path}/a.db", max_size=1 << 24) as backend:
        broker = backend.broker
        await broker.enqueue([Job(id=f"{n}", task="t", body=b"x" * 10_000) for n in range(10)])
        running = await broker.fetch(["default"], 2, lease=60, wait=0)
        async with no_room(backend):
            with pytest.raises(BrokerUnavailable, match="full: free some space"):
                await broker.enqueue([Job(id=f"big-{n}", task="t", body=b"x" * 1_000_000) for n in range(3)])
            settled = await broker.settle([Ack(running[0].receipt), DeadLetter(running[1].receipt, b"no")])
            assert settled == [True, True]
        assert backend.admin is not None
        (stats,) = await backend.admin.stats()
        assert (stats.ready, stats.leased, stats.dead) == (8, 0, 1)
        assert await broker.enqueue([Job(id="big-0", task="t", body=b"x" * 1_000_000)]) == [Enqueued("big-0", True)]
