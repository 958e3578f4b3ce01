"""A queue keeps its pace while a transaction stays open elsewhere, and with a million jobs in it. Prints figures."""

import os
from time import perf_counter

import pytest
from taskq_postgres import connect

from taskq.broker import Backend
from taskq.job import Ack, Job
from tests.backends.postgres.conftest import plain
from tests.backends.postgres.test_postgres_marks import held
from tests.servers.process import Process

MINUTES = 2
MILLION = 1_000_000

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif("TASKQ_TEST_LONG" not in os.environ, reason="takes minutes, and measures: make test-long"),
]


async def _work(backend: Backend, seconds: float) -> tuple[int, float]:
    """Enqueue a thousand, run them in hundreds, again and again: jobs done, and jobs in a second of fetching."""
    done, fetching = 0, 0.0
    until = perf_counter() + seconds
    while perf_counter() < until:
        await backend.broker.enqueue([Job(id=f"{until}-{done + n}", task="task", body=b"x" * 92) for n in range(1000)])
        for _ in range(10):
            begun = perf_counter()
            deliveries = await backend.broker.fetch(["default"], 100, lease=10, wait=0)
            await backend.broker.settle([Ack(delivery.receipt) for delivery in deliveries])
            fetching += perf_counter() - begun
            done += len(deliveries)
    return done, done / fetching


async def test_a_transaction_that_stays_open_elsewhere_costs_less_than_a_third_of_the_pace(own: Process) -> None:
    async with connect(own.url, migrate=True) as backend, plain(own.url) as direct:
        await _work(backend, 5)
        _, before = await _work(backend, 15)
        async with held(own.url):
            total, _ = await _work(backend, 60 * MINUTES - 15)
            done, after = await _work(backend, 15)
            dead: int = await direct.fetchval("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'jobs'")
        _, then = await _work(backend, 15)
        print(f"{before:.0f} jobs/s, {after:.0f} after {total + done} jobs beside an open transaction, then {then:.0f}")  # noqa: T201
        print(f"{dead / (total + done):.2f} dead rows a job")  # noqa: T201
        assert after >= 0.7 * before
        # What waited and what was leased: nothing that an open transaction may still see can be removed.
        assert dead <= 2.1 * (total + done)


async def test_a_fetch_takes_no_longer_with_a_million_jobs_before_it_and_a_million_behind(own: Process) -> None:
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
        print(f"p99 of a fetch of 10: {few * 1000:.2f} ms among 10³ jobs, {many * 1000:.2f} ms among 10⁶")  # noqa: T201
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
