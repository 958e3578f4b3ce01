"""A queue keeps its pace while transactions stay open elsewhere, and with a million jobs in it. Keeps the figures."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

import anyio
import pytest
from taskq_postgres import connect

from taskq import App
from taskq.broker import Backend
from taskq.job import Ack, Job
from tests.backends.postgres.conftest import plain
from tests.backends.postgres.test_postgres_marks import held
from tests.servers.process import Process

Row: TypeAlias = Callable[[str, str, Mapping[str, object]], None]

MINUTES = 2
LONGEST = 10
SCANNERS = 4
PACE = 500
"""Jobs a second."""
MILLION = 1_000_000

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif("TASKQ_TEST_LONG" not in os.environ, reason="takes minutes, and measures: make test-long"),
]

HEAD = """# The pace of a queue on PostgreSQL

Jobs of 92 bytes, fetched and settled in hundreds by one connection, or deferred and run by an app;
nothing waits for the disk."""


async def _work(backend: Backend, seconds: float, server: Sequence[int]) -> tuple[int, float]:
    """Enqueue a thousand, run them in hundreds, again and again: jobs done, and jobs a second of the server's CPU."""
    done, spent = 0, 0.0
    until = perf_counter() + seconds
    while perf_counter() < until:
        await backend.broker.enqueue([Job(id=f"{until}-{done + n}", task="task", body=b"x" * 92) for n in range(1000)])
        before = _cpu(server)
        for _ in range(10):
            deliveries = await backend.broker.fetch(["default"], 100, lease=10, wait=0)
            await backend.broker.settle([Ack(delivery.receipt) for delivery in deliveries])
            done += len(deliveries)
        spent += _cpu(server) - before
    return done, done / spent


def _cpu(processes: Sequence[int]) -> float:
    """Seconds they have had: of those on the clock other work of the machine takes its part."""
    return sum(int(Path(f"/proc/{one}/schedstat").read_text(encoding="ascii").split()[0]) for one in processes) / 1e9


async def test_a_transaction_that_stays_open_elsewhere_costs_less_than_a_third_of_the_pace(
    own: Process, row: Row
) -> None:
    async with connect(own.url, migrate=True, connections=1) as backend, plain(own.url) as direct:
        await backend.broker.fetch(["default"], 1, lease=1, wait=0)
        server = [
            one["pid"] for one in await direct.fetch("SELECT pid FROM pg_stat_activity WHERE query LIKE '%.fetch(%'")
        ]
        await _work(backend, 5, server)
        _, before = await _work(backend, 15, server)
        async with held(own.url):
            total, _ = await _work(backend, 60 * MINUTES - 15, server)
            done, after = await _work(backend, 15, server)
            dead: int = await direct.fetchval("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'jobs'")
        shown = (
            f"{before:,.0f} jobs for a second of the server's CPU before, {after:,.0f} after {MINUTES} minutes and "
            f"{total + done:,} jobs beside an open transaction; {dead / (total + done):.2f} dead rows a job"
        )
        row("pace-postgresql", HEAD, {"shown": shown})
        assert after >= 0.7 * before
        # What waited and what was leased: nothing that an open transaction may still see can be removed.
        assert dead <= 2.1 * (total + done)


async def test_nothing_piles_up_beside_an_idle_transaction_and_scanners_of_the_table(own: Process, row: Row) -> None:
    app, begun = App(f"{own.url}?migrate=1"), perf_counter()
    deferred = deepest = dead = 0

    @app.task(idempotent=True)
    async def nothing(n: int) -> None: ...

    async with app, app.working(), plain(own.url) as direct, held(own.url), anyio.create_task_group() as group:
        for _ in range(SCANNERS):
            group.start_soon(_scan, own.url)
        while deferred < 60 * LONGEST * PACE:
            await anyio.sleep(max(0.0, begun + deferred / PACE - perf_counter()))
            await app.defer_many(nothing.call(n) for n in range(PACE))
            deferred += PACE
            deepest = max(deepest, await direct.fetchval("SELECT count(*) FROM taskq.jobs"))
        dead = await direct.fetchval("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'jobs'")
        group.cancel_scope.cancel()
    shown = (
        f"{PACE} jobs/s for {LONGEST} minutes beside an idle transaction and {SCANNERS} that scan the table: "
        f"{deepest:,} jobs waited at most, {dead / deferred:.2f} dead rows a job"
    )
    row("pace-postgresql", HEAD, {"shown": shown})
    assert deepest <= 20 * PACE
    assert dead <= 2.1 * deferred


async def _scan(url: str) -> None:
    """Read all jobs again and again, a minute in one snapshot."""
    async with plain(url) as connection:
        while True:
            async with connection.transaction(isolation="repeatable_read"):
                for _ in range(6):
                    await connection.fetchval("SELECT count(*) FROM taskq.jobs")
                    await anyio.sleep(10)


async def test_a_fetch_takes_no_longer_with_a_million_jobs_before_it_and_a_million_behind(
    own: Process, row: Row
) -> None:
    async with connect(own.url, migrate=True) as backend, plain(own.url) as direct:
        few = await _percentile(backend)
        await direct.execute(
            f"""
            INSERT INTO taskq.jobs (seq, due, state, queue, id, task, body)
            SELECT nextval('taskq.arrivals'), n * 1e-3, 'ready', 'default', lpad(n::text, 9, '0'), 'task', repeat('x', 92)::bytea
            FROM generate_series(1, {MILLION}) AS n;
            INSERT INTO taskq.ended (queue, id, outcome, outcome_until, id_until, lapses_at)
            SELECT 'default', 'e' || n, '{{}}', 1e12, 0, 1e12 FROM generate_series(1, {MILLION}) AS n;
            """  # noqa: E501, S608
        )
        await direct.execute("VACUUM ANALYZE")
        many = await _percentile(backend)
        shown = (
            f"99th percentile of a fetch of 10: {few * 1000:.2f} ms among a thousand jobs, "
            f"{many * 1000:.2f} ms among a million that wait and a million that ended"
        )
        row("pace-postgresql", HEAD, {"shown": shown})
        assert many <= 2 * few


async def _percentile(backend: Backend) -> float:
    """Of a thousand fetches of ten jobs; among those in the queue, and a thousand more."""
    times: list[float] = []
    for turn in range(100):
        await backend.broker.enqueue([Job(id=f"{turn}-{n}-{id(times)}", task="task", body=b"") for n in range(100)])
        for _ in range(10):
            begun = perf_counter()
            deliveries = await backend.broker.fetch(["default"], 10, lease=60, wait=0)
            times.append(perf_counter() - begun)
            await backend.broker.settle([Ack(delivery.receipt, b"{}", 3600) for delivery in deliveries])
    return sorted(times)[len(times) * 99 // 100]
