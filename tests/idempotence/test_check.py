"""The harness finds what is wrong with each wrong task, and nothing with its corrected twin."""

import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import asyncpg
import pytest

from taskq import App, Task, Tasks, current
from taskq.errors import ConfigError
from taskq.testing import Files, NotIdempotent, Observer, Requests, Rows, check_idempotent
from tests.idempotence.pairs import TABLES, Pair, World, pairs
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.process import Process

pytestmark = pytest.mark.anyio

NAMES = list(pairs(World(sqlite3.connect(":memory:"), "", Path())))
LOST = {"mark before mail", "a status that finally takes back"}
TABLE_NAMES = ("mail", "account", "grants", "visit", "visit_once", "newsletter")


@pytest.fixture
async def provider() -> AsyncGenerator[Requests]:
    async with Requests() as provider:
        yield provider


@pytest.fixture
def world(provider: Requests, tmp_path: Path) -> World:
    shop = sqlite3.connect(":memory:", check_same_thread=False)
    shop.executescript(TABLES)
    (tmp_path / "statement").touch()
    return World(shop, provider.url, tmp_path)


@pytest.fixture
def observers(world: World, provider: Requests) -> list[Observer]:
    queries = [f"SELECT '{name}', * FROM {name}" for name in TABLE_NAMES]  # noqa: S608 - our own names
    return [Rows(world.shop, *queries), provider, Files(world.directory)]


@pytest.mark.parametrize("name", NAMES)
async def test_what_a_wrong_task_doubles_or_loses_is_found_and_its_twin_passes(
    name: str, world: World, observers: list[Observer]
) -> None:
    pair: Pair = pairs(world)[name]

    with pytest.raises(NotIdempotent) as caught:
        await check_idempotent(pair.wrong, *pair.args, observe=observers)
    assert any(finding.lost if name in LOST else finding.doubled for finding in caught.value.findings), caught.value
    places = {place for finding in caught.value.findings for place in finding.places}
    assert all(" pairs.py:" in place or "the last line" in place for place in places), sorted(places)

    assert len(await check_idempotent(pair.right, *pair.args, observe=observers)) > 2


def test_there_are_ten_and_more() -> None:
    assert len(NAMES) >= 10


# What a death is


def an_app() -> tuple[App, list[str]]:
    return App("memory://"), []


async def test_no_finally_and_no_except_of_a_dead_run_is_run_and_neither_are_its_children() -> None:
    app, said = an_app()

    async def child() -> None:
        try:
            await anyio.sleep(0.01)
            said.append("child")
        finally:
            said.append("child's end")

    @app.task
    async def parent() -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                await anyio.sleep(0.005)
                said.append("parent")
        except BaseException:
            said.append("except")
            raise
        finally:
            said.append("finally")

    runs: list[tuple[str, ...]] = []

    def setup() -> None:
        runs.append(tuple(said))
        said.clear()

    with pytest.raises(NotIdempotent):
        await check_idempotent(parent, observe=[lambda: said], setup=setup)
    whole = ("parent", "child", "child's end", "finally")
    assert set(runs[2:]) >= {whole, ("parent", *whole), ("parent", "child", "child's end", *whole)}
    # Each crash leaves what had been said so far, and then comes a whole run.
    for run in runs[2:]:
        assert run[-4:] == whole
        assert run[:-4] == whole[: len(run) - 4]


async def test_what_a_dead_process_had_not_committed_is_rolled_back(tmp_path: Path) -> None:
    app, _ = an_app()
    file = tmp_path / "shop.db"
    with sqlite3.connect(file) as shop:
        shop.execute("CREATE TABLE visit (user INT)")

    @app.task
    async def visit(user: int) -> None:
        own = sqlite3.connect(file, timeout=0.1)
        if not own.execute("SELECT 1 FROM visit").fetchone():
            own.execute("INSERT INTO visit VALUES (?)", (user,))
            await anyio.lowlevel.checkpoint()
            own.commit()
        own.close()

    assert len(await check_idempotent(visit, 1, observe=[Rows(shop, "SELECT * FROM visit")])) > 5
    shop.close()


async def test_the_second_run_is_a_workers_with_its_losses_and_what_the_job_remembers() -> None:
    app, said = an_app()

    async def think() -> int:
        said.append("thought")
        return 42

    @app.task
    async def ask() -> None:
        answer = await current().step("think", think)
        said.append(f"{answer} {current().losses} {current().fence > 0}")

    with pytest.raises(NotIdempotent) as caught:
        await check_idempotent(ask, observe=[lambda: [s for s in said if s == "thought"]], setup=said.clear)
    # A step is written down after it: a crash in between repeats it, and no other does.
    (finding,) = caught.value.findings
    assert {place.partition(" at ")[0] for place in finding.places} == {"within the await"}


async def test_a_run_that_waits_in_a_thread_dies_when_the_thread_is_done() -> None:
    app, said = an_app()

    def work() -> None:
        said.append("done")

    @app.task
    async def threaded() -> None:
        if not said:
            await anyio.to_thread.run_sync(work)

    places = await check_idempotent(threaded, observe=[lambda: said], setup=said.clear)
    assert not any("waiting" in place for place in places)


async def test_a_function_without_source_dies_where_it_waits() -> None:
    app, said = an_app()
    names: dict[str, Any] = {"said": said, "anyio": anyio}
    exec("async def f():\n    said.append(1)\n    await anyio.sleep(0)\n", names)  # noqa: S102 - a task typed in a shell

    with pytest.raises(NotIdempotent) as caught:
        await check_idempotent(app.task(name="f")(names["f"]), observe=[lambda: said], setup=said.clear)
    assert [place.partition(" ")[0] for finding in caught.value.findings for place in finding.places] == [
        "waiting",
        "after",
    ]


# What cannot be checked


async def fine() -> None: ...


async def test_a_world_that_is_not_put_back_is_noticed() -> None:
    app, said = an_app()

    @app.task
    async def say() -> None:
        said.append("hello")

    with pytest.raises(ConfigError, match="give a setup= that puts everything back"):
        await check_idempotent(say, observe=[lambda: said])


async def test_what_a_task_raises_by_itself_is_raised() -> None:
    app, _ = an_app()

    @app.task
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await check_idempotent(broken)


async def test_a_task_that_is_one_transaction_and_one_without_an_app_are_refused() -> None:
    app, _ = an_app()
    with pytest.raises(ConfigError, match="is one transaction"):
        await check_idempotent(app.task(transaction=True)(fine))
    task: Task[..., Any] = Tasks().task(fine)
    with pytest.raises(ConfigError, match="belongs to no app yet"):
        await check_idempotent(task)


async def test_a_job_that_fails_after_a_crash_is_a_finding() -> None:
    app, said = an_app()

    @app.task(retry=3)
    async def once_only() -> None:
        if said:
            raise ValueError("it has been here")
        said.append("here")

    with pytest.raises(NotIdempotent, match=r"doubled in end: 'failed it has been here'"):
        await check_idempotent(once_only, setup=said.clear)


async def test_a_pool_has_the_connection_of_a_killed_run_back(postgres: Process) -> None:
    app = App()

    @app.task
    async def look() -> None:
        async with pool.acquire(timeout=30) as connection, connection.transaction():
            await connection.execute("SELECT pg_sleep(0.001)")

    async with asyncpg.create_pool(postgres.url, min_size=0, max_size=1) as pool:
        assert len(await check_idempotent(look)) > 2
