"""A queue keeps its pace while transactions stay open elsewhere, and with a million jobs in it. Keeps the figures."""

import os
from collections.abc import Callable, Mapping
from itertools import chain
from statistics import median
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
from tests.servers import postgres as postgresql
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


async def _work(backend: Backend, seconds: float) -> tuple[int, float]:
    """Enqueue a thousand, run them in hundreds, again and again: jobs done, and jobs in a second of fetching."""
    done, fetching = 0, 0.0
    until = perf_counter() + seconds
    while perf_counter() < until:
        await backend.broker.enqueue([Job(id=f"{until}-{done + n}", task="task", body=b"x" * 92) for n in range(1000)])
        begun = perf_counter()
        for _ in range(10):
            deliveries = await backend.broker.fetch(["default"], 100, lease=10, wait=0)
            await backend.broker.settle([Ack(delivery.receipt) for delivery in deliveries])
            done += len(deliveries)
        fetching += perf_counter() - begun
    return done, done / fetching


async def test_a_transaction_that_stays_open_elsewhere_costs_less_than_a_third_of_the_pace(
    own: Process, row: Row
) -> None:
    with postgresql.postgres() as other:
        async with (
            connect(own.url, migrate=True) as backend,
            connect(other.url, migrate=True) as free,
            plain(own.url) as direct,
            held(own.url),
        ):
            total, _ = await _work(backend, 60 * MINUTES)
            dead: int = await direct.fetchval("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'jobs'")
            # In turns, so that other work of the machine slows both down.
            pairs = [((await _work(backend, 1))[1], (await _work(free, 1))[1]) for _ in range(20)]
    beside, alone = (median(paces) for paces in zip(*pairs, strict=True))
    shown = (
        f"after {MINUTES} minutes and {total:,} jobs beside an open transaction {beside:,.0f} jobs/s, and {alone:,.0f} "
        f"in the same minute on a server without one; {dead / total:.2f} dead rows a job"
    )
    row("pace-postgresql", HEAD, {"shown": shown})
    assert beside >= 0.7 * alone
    # What waited and what was leased: nothing that an open transaction may still see can be removed.
    assert dead <= 2.1 * total


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
    with postgresql.postgres() as other:
        async with (
            connect(own.url, migrate=True) as backend,
            connect(other.url, migrate=True) as small,
            plain(own.url) as direct,
        ):
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
            await direct.execute("CHECKPOINT")
            # In turns, so that other work of the machine slows both down.
            turns = [(await _fetches(small, turn), await _fetches(backend, turn)) for turn in range(100)]
    few, many = (_percentile(list(chain.from_iterable(each))) for each in zip(*turns, strict=True))
    shown = (
        f"99th percentile of a fetch of 10: {few * 1000:.2f} ms among a hundred jobs, and {many * 1000:.2f} ms in the "
        "same minute among a million that wait and a million that ended"
    )
    row("pace-postgresql", HEAD, {"shown": shown})
    assert many <= 2 * few


async def _fetches(backend: Backend, turn: int) -> list[float]:
    """Seconds of ten fetches of ten jobs; among those in the queue, and a hundred more."""
    times: list[float] = []
    await backend.broker.enqueue([Job(id=f"{turn}-{n}", task="task", body=b"") for n in range(100)])
    for _ in range(10):
        begun = perf_counter()
        deliveries = await backend.broker.fetch(["default"], 10, lease=60, wait=0)
        times.append(perf_counter() - begun)
        await backend.broker.settle([Ack(delivery.receipt, b"{}", 3600) for delivery in deliveries])
    return times


def _percentile(times: list[float]) -> float:
    """What 99 % of them do not exceed."""
    return sorted(times)[len(times) * 99 // 100]
