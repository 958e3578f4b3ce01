"""What the writing lane, the transactions and the groups promise beyond the contract."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from time import time

import anyio
import anyio.lowlevel
import msgspec
import pytest
from anyio.abc import TaskStatus
from taskq_sqlite import connect, fetch, queries

from taskq.broker import Backend, Transactions
from taskq.errors import BrokerRejected, ConfigError
from taskq.job import Enqueued, Job, Lease, Nack

pytestmark = pytest.mark.anyio

PATIENCE = 30


def a_job(name: str, **fields: object) -> Job:
    return Job(**{"id": name, "task": "t", "body": b"{}"} | fields)  # type: ignore[arg-type]  # the tests' own fields


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
async def backend(path: Path, anyio_backend: str) -> AsyncIterator[Backend]:  # noqa: ARG001
    async with connect(f"sqlite:///{path}") as backend:
        yield backend


@pytest.fixture
def transactions(backend: Backend) -> Transactions:
    assert backend.transactions is not None
    return backend.transactions


def states(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT id, state FROM taskq_jobs ORDER BY id").fetchall()


async def names(backend: Backend, limit: int, *, wait: float = 0) -> list[str]:
    return [delivery.job.id for delivery in await backend.broker.fetch(["default"], limit, lease=60, wait=wait)]


@asynccontextmanager
async def lane_held(transactions: Transactions) -> AsyncGenerator[None]:
    """Another task keeps the writing lane busy."""

    async def hold(*, task_status: TaskStatus[None]) -> None:
        async with transactions.begin():
            task_status.started()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        await tasks.start(hold)
        yield
        tasks.cancel_scope.cancel()


class TestLane:
    async def test_no_thread_outlives_the_connection(self, path: Path) -> None:
        before = set(threading.enumerate())
        async with connect(f"sqlite:///{path}") as backend, backend.extender(), anyio.create_task_group() as tasks:
            tasks.start_soon(names, backend, 1)
            await anyio.wait_all_tasks_blocked()
        assert set(threading.enumerate()) == before

    async def test_no_thread_outlives_a_failure_to_open(self, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        with pytest.raises(BrokerRejected):
            async with connect(f"sqlite:///{tmp_path}/missing/a.db"):
                pass
        assert set(threading.enumerate()) == before

    async def test_a_fetch_that_was_cancelled_when_it_had_been_served_gives_its_jobs_back(
        self, backend: Backend, path: Path
    ) -> None:
        await backend.broker.enqueue([a_job("a")])
        fetch = asyncio.create_task(names(backend, 1))
        await asyncio.sleep(0)
        # The event loop stands still here, so the answer cannot reach the fetch.
        while states(path) != [("a", "leased")]:
            pass
        fetch.cancel()
        (again,) = await backend.broker.fetch(["default"], 1, lease=60, wait=PATIENCE)
        assert (again.losses, again.attempt) == (0, 1)

    async def test_a_fetch_that_was_cancelled_before_it_was_served_leases_nothing(
        self, backend: Backend, path: Path, transactions: Transactions
    ) -> None:
        await backend.broker.enqueue([a_job("a")])
        async with lane_held(transactions):
            fetch = asyncio.create_task(names(backend, 1))
            await anyio.wait_all_tasks_blocked()
            fetch.cancel()
        await backend.broker.extend([], 1)
        assert states(path) == [("a", "ready")]

    async def test_one_failing_call_does_not_take_those_with_it_that_share_its_transaction(
        self, backend: Backend, path: Path, transactions: Transactions
    ) -> None:
        async with lane_held(transactions):
            before = asyncio.ensure_future(backend.broker.enqueue([a_job("before")]))
            failing = asyncio.ensure_future(backend.broker.fetch(["half a pair: \ud800"], 1, lease=60, wait=0))
            after = asyncio.ensure_future(backend.broker.enqueue([a_job("after")]))
            await anyio.wait_all_tasks_blocked()
        assert await before == [Enqueued("before", True)]
        assert await after == [Enqueued("after", True)]
        with pytest.raises(BrokerRejected):
            await failing
        assert states(path) == [("after", "ready"), ("before", "ready")]


class TestTransactions:
    async def test_the_other_writes_of_the_process_wait_for_it(
        self, backend: Backend, path: Path, transactions: Transactions
    ) -> None:
        async with lane_held(transactions):
            writing = asyncio.ensure_future(backend.broker.enqueue([a_job("a")]))
            await anyio.wait_all_tasks_blocked()
            assert not writing.done()
            assert states(path) == []
        assert await writing == [Enqueued("a", True)]

    async def test_it_ends_whole_or_not_at_all(self, path: Path, transactions: Transactions) -> None:
        async with transactions.begin() as connection:
            await transactions.join(connection).enqueue([a_job("kept")])
            assert states(path) == []
        with suppress(LookupError):
            async with transactions.begin() as connection:
                await transactions.join(connection).enqueue([a_job("undone")])
                raise LookupError
        assert states(path) == [("kept", "ready")]

    async def test_its_commit_wakes_a_waiting_fetch(self, backend: Backend, transactions: Transactions) -> None:
        waiting = asyncio.ensure_future(names(backend, 1, wait=PATIENCE))
        await anyio.wait_all_tasks_blocked()
        async with transactions.begin() as connection:
            await transactions.join(connection).enqueue([a_job("a")])
        assert await waiting == ["a"]

    async def test_a_write_that_would_wait_for_itself_is_refused(
        self, backend: Backend, transactions: Transactions
    ) -> None:
        assert backend.store is not None
        async with transactions.begin():
            with pytest.raises(BrokerRejected, match=r"write by join\(connection\)"):
                await backend.broker.enqueue([a_job("a")])
            with pytest.raises(BrokerRejected, match="a transaction is open"):
                await backend.store.swap("key", None, b"value")
            assert (await backend.store.get("key")).value is None
        assert await backend.store.swap("key", None, b"value")

    async def test_only_one_is_open_at_a_time(self, transactions: Transactions) -> None:
        open_now = most = 0

        async def one() -> None:
            nonlocal open_now, most
            async with transactions.begin():
                open_now += 1
                most = max(most, open_now)
                await anyio.lowlevel.checkpoint()
                open_now -= 1

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(one)
        assert most == 1

    async def test_a_cancelled_wait_for_one_leaves_the_lane_free(
        self, backend: Backend, transactions: Transactions
    ) -> None:
        async with lane_held(transactions), anyio.create_task_group() as waiters:
            waiters.start_soon(enter, transactions)
            await anyio.wait_all_tasks_blocked()
            waiters.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE):
            assert await backend.broker.enqueue([a_job("a")]) == [Enqueued("a", True)]

    async def test_an_extender_waits_too_and_then_extends(self, backend: Backend, transactions: Transactions) -> None:
        await backend.broker.enqueue([a_job("a")])
        (delivery,) = await backend.broker.fetch(["default"], 1, lease=60, wait=0)
        async with backend.extender() as extender:
            async with transactions.begin():
                extending = asyncio.ensure_future(extender.extend([delivery.receipt], 60))
                await anyio.wait_all_tasks_blocked()
                assert not extending.done()
            assert await extending == [Lease.HELD]

    async def test_join_takes_a_connection_to_the_same_file_only(
        self, transactions: Transactions, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"takes a sqlite3.Connection to .*a\.db, not a str"):
            transactions.join("a connection")
        for other in (":memory:", str(tmp_path / "other.db")):
            with closing(sqlite3.connect(other)) as connection, pytest.raises(ConfigError, match=r"a\.db, not to"):
                transactions.join(connection)

    async def test_a_joined_enqueue_shares_the_fate_of_the_applications_rows(
        self, backend: Backend, transactions: Transactions, path: Path
    ) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("CREATE TABLE orders (id)")
            joined = transactions.join(connection)
            connection.execute("INSERT INTO orders VALUES (1)")
            await joined.enqueue([a_job("undone")])
            connection.rollback()
            # The driver begins no transaction for us: the joined broker does.
            await joined.enqueue([a_job("done")])
            connection.execute("INSERT INTO orders VALUES (2)")
            assert states(path) == []
            connection.commit()
            assert [row["id"] for row in connection.execute("SELECT id FROM orders")] == [2]
        assert await names(backend, 10, wait=PATIENCE) == ["done"]

    async def test_a_joined_enqueue_without_a_transaction_is_refused(
        self, transactions: Transactions, path: Path
    ) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            joined = transactions.join(connection)
            with pytest.raises(BrokerRejected, match="BEGIN IMMEDIATE"):
                await joined.enqueue([a_job("a")])
        assert states(path) == []


async def enter(transactions: Transactions) -> None:
    async with transactions.begin():
        pass


class TestGroups:
    async def test_one_fetch_takes_what_one_at_a_time_would(self, backend: Backend) -> None:
        await backend.broker.enqueue(
            [
                a_job("g9", priority=9, group="g", group_limit=2),
                a_job("g7", priority=7, group="g", group_limit=2),
                a_job("g6", priority=6, group="g", group_limit=2),
                a_job("p8", priority=8),
                a_job("p6", priority=6),
                a_job("h7", priority=7, group="h"),
                a_job("h8", priority=8, group="h"),
                a_job("p5", priority=5),
            ]
        )
        assert await names(backend, 5) == ["g9", "p8", "h8", "g7", "p6"]
        assert await names(backend, 5) == ["p5"]

    async def test_members_of_many_limits_each_obey_their_own(self, backend: Backend) -> None:
        await backend.broker.enqueue([a_job(f"{n}", group="g", group_limit=n) for n in (3, 1, 2, 4)])
        taken = await backend.broker.fetch(["default"], 10, lease=60, wait=0)
        # 1 and 2 have no place beside those before them; 4 has.
        assert [delivery.job.id for delivery in taken] == ["3", "2", "4"]
        await backend.broker.settle([Nack(delivery.receipt, 600) for delivery in taken])
        assert await names(backend, 10) == ["1"]


async def test_a_fetch_brings_exactly_what_was_stored(backend: Backend, path: Path) -> None:
    texts = ["a\0b", 'quoted "\\', "\N{SNOWMAN}\U0001f600", "line\nfeed"]
    bodies = [b"", b"\0\xff\x00", bytes(range(256)), b"plain"]
    jobs = [
        a_job(text, body=body, tenant=text, expires_in=60.0, headers={text: text})
        for text, body in zip(texts, bodies, strict=True)
    ]
    await backend.broker.enqueue(jobs)
    (first, *rest) = await backend.broker.fetch(["default"], 10, lease=60, wait=0)
    assert [delivery.job.body for delivery in (first, *rest)] == bodies
    await backend.broker.settle([Nack(first.receipt, 0.0, error=b"\0why\xff")])
    await backend.broker.settle([Nack(other.receipt, 0.0) for other in rest])
    with closing(sqlite3.connect(path)) as connection:
        moments = dict(connection.execute("SELECT id, coalesce(was_due, due) FROM taskq_jobs"))
        expiries = dict(connection.execute("SELECT id, expires_at FROM taskq_jobs"))
    again = await backend.broker.fetch(["default"], 10, lease=60, wait=0)
    for delivery, job in zip(sorted(again, key=lambda one: texts.index(one.job.id)), jobs, strict=True):
        assert msgspec.structs.replace(delivery.job, expires_in=60.0) == job
        assert (delivery.due, delivery.expires_at) == (moments[job.id], expiries[job.id])
        assert delivery.error == (b"\0why\xff" if job.id == first.job.id else None)


async def test_jobs_that_do_not_fit_into_one_value_are_fetched_in_parts(backend: Backend, path: Path) -> None:
    await backend.broker.enqueue([a_job(str(n), body=bytes(1000)) for n in range(10)])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 6000)
        sql, cursor = queries.load(), connection.cursor()

        def fetched() -> list[str]:
            return [one.job.id for one in fetch.fetch(cursor, sql, ["default"], 10, lease=60, now=time())]

        assert [fetched(), fetched(), fetched()] == [["0", "1", "2", "3", "4"], ["5", "6", "7", "8", "9"], []]
