"""Jobs and the caller's data in one transaction: both, or neither."""

import contextlib
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from taskq import App, current
from taskq.broker import Backend
from taskq.connect import connect
from taskq.errors import MissingCapability
from taskq.retry import Retry
from taskq.testing import VirtualClock, deferred, run_until_idle
from tests.worker.moves import steal

pytestmark = pytest.mark.anyio


async def _begin(app: App) -> Any:
    assert app.backend.transactions is not None
    return app.backend.transactions.begin()


async def test_a_defer_in_a_transaction_exists_from_its_commit_on(url: str) -> None:
    app = App(url)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        async with await _begin(app) as connection:
            await note.options(tx=connection).defer(1)
        with contextlib.suppress(ZeroDivisionError):
            async with await _begin(app) as connection:
                await note.options(tx=connection).defer(2)
                raise ZeroDivisionError
        assert [job.arguments for job in await deferred(app)] == [{"n": 1}]


async def test_a_bulk_defer_takes_part_too(url: str) -> None:
    app = App(url)

    @app.task
    async def note(n: int) -> None: ...

    async with app:
        with contextlib.suppress(ZeroDivisionError):
            async with await _begin(app) as connection:
                inside = note.options(tx=connection)
                await app.defer_many(inside.call(n) for n in range(10))
                raise ZeroDivisionError
        assert await deferred(app) == []
        async with await _begin(app) as connection:
            inside = note.options(tx=connection)
            await app.defer_many(inside.call(n) for n in range(10))
        assert len(await deferred(app)) == 10


async def test_a_transactional_task_commits_defers_result_and_ack_together(url: str) -> None:
    app = App(url)
    seen: list[int] = []

    @app.task
    async def after(n: int) -> None:
        seen.append(n)

    @app.task(transaction=True)
    async def first(n: int) -> int:
        assert current().connection is not None
        await after.defer(n)
        return n

    async with app:
        job = await first.defer(7)
        worked = await run_until_idle(app, raise_failures=True)
        assert await job.result(0) == 7
        assert len(worked.finished) == 2
    assert seen == [7]


async def test_a_transactional_task_that_fails_leaves_no_trace(url: str) -> None:
    app = App(url)

    @app.task
    async def after() -> None:
        raise AssertionError("nobody deferred this")

    @app.task(transaction=True, retry=Retry.never())
    async def first() -> None:
        await after.defer()
        raise ZeroDivisionError

    async with app:
        await first.defer()
        worked = await run_until_idle(app)
        assert [type(failure) for failure in worked.failures] == [ZeroDivisionError]
        assert await deferred(app) == []


async def test_a_transactional_task_whose_lease_was_lost_rolls_back(clock: VirtualClock) -> None:
    app = App("memory://", lease=3000)
    gate = anyio.Event()

    @app.task
    async def after() -> None: ...

    @app.task(transaction=True)
    async def first() -> None:
        await after.options(queue="other").defer()
        await gate.wait()

    async with app, app.working() as worker:
        job = await first.defer()
        await clock.advance()
        await steal(app, worker)
        gate.set()
        await clock.advance()
        assert not list(worker.running)
        assert [found.record.job.id for found in await deferred(app)] == [job.id]


async def test_the_handlers_own_writes_commit_with_its_ack(tmp_path: Path) -> None:
    pytest.importorskip("taskq_sqlite")
    file = tmp_path / "app.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE accounts (owner TEXT, credit INTEGER)")
        connection.execute("INSERT INTO accounts VALUES ('ada', 0)")
    connection.close()
    app = App(f"sqlite:///{file}")
    runs = 0

    @app.task(transaction=True, retry=Retry.fixed(2, 0))
    async def grant(owner: str) -> int:
        nonlocal runs
        runs += 1
        current().connection.execute("UPDATE accounts SET credit = credit + 10 WHERE owner = ?", [owner])
        if runs == 1:
            raise ConnectionError("after the write")
        return runs

    async with app:
        job = await grant.defer("ada")
        await run_until_idle(app)
        assert await job.result(0) == 2
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT credit FROM accounts").fetchall() == [(10,)]
    connection.close()


async def test_a_backend_without_transactions_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def without(url: str) -> AsyncGenerator[Backend]:
        async with connect(url) as backend:
            yield replace(backend, transactions=None)

    monkeypatch.setattr("taskq.opening.connect", without)
    app = App("memory://")

    @app.task(transaction=True)
    async def grant() -> None: ...

    with pytest.raises(MissingCapability, match="grant"):
        async with app:
            raise AssertionError
