"""While a transaction stays open, what is over cannot be removed: a fetch enters the lines behind it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
import pytest
from taskq_postgres import migrate, queries
from taskq_postgres.marks import Marks
from taskq_postgres.verbs import Fetched, Verbs

from taskq.job import Ack, Nack
from taskq.testing.deployment import a_job, add, names, wait_until
from tests.backends.postgres.conftest import Opener, plain
from tests.servers.process import Process

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.anyio


class Line:
    """A queue whose first jobs are over, and cannot be removed."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self.connection = connection
        self.schema = schema
        self.verbs = Verbs(queries.load(schema), 1 << 20, 0)
        self.marks: str | None = None

    async def fetch(self, limit: int, lease: float = 60) -> Fetched:
        """Fetch where the last fetch said."""
        fetched = await self.verbs.fetch(self.connection, ["q"], limit, lease, self.marks)
        self.marks = fetched.marks
        return fetched

    async def add(self, *jobs: str, priority: int = 0, delay: float = 0) -> None:
        """Enqueue jobs of these ids."""
        await self.verbs.enqueue(
            self.connection, [a_job("q", job, priority=priority, delay=delay) for job in jobs], tells=False
        )

    async def fill(self, ids: range, age: float) -> None:
        """Jobs that have waited for so long."""
        await self.connection.execute(
            f"INSERT INTO {self.schema}.jobs (seq, due, state, queue, id, task, body)"  # noqa: S608
            f" SELECT nextval('{self.schema}.arrivals'), extract(epoch FROM clock_timestamp()) - $1, 'ready', 'q',"
            " n::text, 'task', '' FROM generate_series($2::integer, $3) AS n",
            age,
            ids.start,
            ids.stop - 1,
        )

    async def finish(self, fetched: Fetched) -> None:
        """Ack what was fetched."""
        acks = [Ack(delivery.receipt) for delivery in fetched.deliveries]
        assert None not in await self.verbs.settle(self.connection, acks, tells=False)


@asynccontextmanager
async def held(url: str) -> AsyncGenerator[None]:
    """Some transaction on the server that has begun and does not end."""
    async with plain(url) as other, other.transaction(isolation="repeatable_read"):
        await other.fetchval("SELECT pg_current_xact_id()")
        yield


@pytest.fixture
async def line(postgres: Process, direct: Connection, schema: str) -> AsyncGenerator[Line]:
    await migrate.apply(direct, schema)
    async with held(postgres.url):
        line = Line(direct, schema)
        await line.fill(range(3000), age=60)
        await line.finish(await line.fetch(2500))
        yield line


async def test_only_one_fetch_passes_over_what_is_over(line: Line) -> None:
    assert (await line.fetch(10)).passed >= 2500
    for _ in range(10):
        fetched = await line.fetch(10)
        assert len(fetched.deliveries) == 10
        # Those that were claimed since, and what they were when they waited.
        assert fetched.passed <= 200
        await line.finish(fetched)


async def test_without_much_in_the_way_there_are_no_marks(line: Line, postgres: Process, schema: str) -> None:
    async with plain(postgres.url) as other:
        await other.execute(f"TRUNCATE {schema}.jobs")
    await line.fill(range(50), age=60)
    fetched = await line.fetch(10)
    assert (len(fetched.deliveries), fetched.passed, fetched.marks) == (10, 0, None)


async def test_marks_keep_the_order_of_delivery(line: Line) -> None:
    await line.fetch(1)
    await line.add("low", priority=-5)
    await line.add("high", priority=7)
    await line.add("higher", priority=9)
    assert names((await line.fetch(4)).deliveries) == ["higher", "high", "2501", "2502"]
    await line.add("between", priority=8)
    await line.add("high2", priority=7)
    assert names((await line.fetch(3)).deliveries) == ["between", "high2", "2503"]
    assert names((await line.fetch(1000)).deliveries)[-1] == "low"


async def test_what_becomes_due_and_what_was_lost_stands_behind_no_mark(line: Line) -> None:
    await line.fetch(1)
    await line.add("soon", delay=0.05)
    lost = names((await line.fetch(1000, lease=0.01)).deliveries)
    assert len(lost) == 499
    got: list[str] = []

    async def all_came() -> bool:
        got.extend(names((await line.fetch(1000)).deliveries))
        return len(got) == 500

    await wait_until(all_came)
    assert sorted(got) == sorted([*lost, "soon"])


async def test_a_job_that_is_given_back_is_fetched_with_marks(line: Line) -> None:
    await line.fetch(1)
    fetched = await line.fetch(499)
    assert (await line.fetch(1)).deliveries == []
    assert await line.verbs.settle(line.connection, [Nack(fetched.deliveries[3].receipt, 0.0)], tells=False)
    assert names((await line.fetch(1)).deliveries) == names([fetched.deliveries[3]])


async def test_what_a_slow_transaction_adds_before_a_mark_is_found_all_the_same(
    opened: Opener, postgres: Process, schema: str
) -> None:
    async with opened() as backend, held(postgres.url), plain(postgres.url) as other, plain(postgres.url) as slow:
        line = Line(other, schema)
        assert backend.transactions is not None
        transaction = slow.transaction()
        await transaction.start()
        await backend.transactions.join(slow).enqueue([a_job("q", "slow")])
        await line.fill(range(3000), age=60)
        await line.finish(await line.fetch(3000))
        await other.execute("SELECT pg_sleep(0.3)")
        # The first says where the line begins now; the second begins there, after the slow one's moment.
        for _ in range(2):
            assert list(await backend.broker.fetch(["q"], 1, lease=60, wait=0)) == []
        await add(backend.broker, a_job("q", "fresh"))
        await transaction.commit()
        got: list[str] = []

        async def both_came() -> bool:
            got.extend(names(await backend.broker.fetch(["q"], 1, lease=60, wait=0)))
            return len(got) == 2

        await wait_until(both_came)
        assert sorted(got) == ["fresh", "slow"]


async def test_more_priorities_than_can_be_carried_leave_no_marks(line: Line) -> None:
    for priority in range(20):
        await line.add(f"p{priority}", priority=priority)
    fetched = await line.fetch(20)
    assert names(fetched.deliveries)[::19] == ["p19", "2500"]
    assert await line.connection.fetchval("SELECT $1::jsonb -> 'q'", fetched.marks) in (None, "null")
    assert names((await line.fetch(2)).deliveries) == ["2501", "2502"]


def test_marks_are_given_for_a_time_that_grows_with_what_they_save() -> None:
    marks = Marks()
    assert marks.given() is None
    marks.heard(None, 1000, "few", 3600)
    assert marks.given() is None
    marks.heard(None, 3000, "many", 3600)
    assert marks.given() == "many"
    marks.heard("many", 10, "more", 0)
    assert marks.given() == "more"
