"""What a job costs the server: statements and bytes of its log, both counted by the server itself."""

from typing import TypeAlias

import asyncpg
import pytest
from taskq_postgres import connect

from taskq import App
from taskq.job import Ack, Job
from tests.backends.postgres.conftest import plain
from tests.servers.process import Process

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

JOBS = 1000
BATCH = 10

pytestmark = pytest.mark.anyio


async def test_ten_jobs_at_a_time_cost_less_than_a_third_of_a_statement_each(own: Process) -> None:
    app = App(f"{own.url}?migrate=1", slots=BATCH)

    @app.task(name="nothing")
    async def nothing(n: int) -> None: ...

    async with plain(own.url) as direct:
        async with app:
            await app.defer_many(nothing.call(n) for n in range(JOBS))
        before = await _statements(direct)
        async with app:
            await app.run_worker(until="idle")
        # Opening and closing the app, too: some twenty.
        assert await _statements(direct) - before <= 0.3 * JOBS


async def test_a_job_costs_less_of_the_log_than_with_any_peer_measured(own: Process) -> None:
    async with connect(own.url, migrate=True) as backend, plain(own.url) as direct:
        before = await direct.fetchval("SELECT pg_current_wal_insert_lsn()")
        jobs = [Job(id=f"{n:032}", task="shop.tasks.nothing", body=b"x" * 92) for n in range(JOBS)]
        await backend.broker.enqueue(jobs)
        for _ in range(0, JOBS, BATCH):
            deliveries = await backend.broker.fetch(["default"], BATCH, lease=60, wait=0)
            assert all(await backend.broker.settle([Ack(delivery.receipt) for delivery in deliveries]))
        written = await direct.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before)
        # The leanest peer measured: 1,050.
        assert written < 750 * JOBS


async def _statements(connection: Connection) -> int:
    """Of all clients so far: each is a transaction of its own, and the connections' ends bring in their counts."""
    count: int = await connection.fetchval(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    )
    return count
