"""Stories from production that are PostgreSQL's own: transactions that are cut, and too few connections."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from math import inf
from uuid import uuid4

import anyio
import asyncpg
import pytest
from taskq_postgres import broker, connect
from taskq_postgres.budget import BESIDE

from taskq import App, Concurrency, Retry, current
from taskq.job import Delivery, Job
from taskq.testing import deferred
from taskq.testing.deployment import SOON, a_job, add, names, wait_until
from tests.backends.postgres.conftest import Opener, plain
from tests.backends.postgres.test_postgres_pace import HEAD
from tests.servers import postgres as postgresql
from tests.servers.process import Process
from tests.servers.tenants import queue_on
from tests.worker.moves import most_at_once, waits_at_fifty_a_second

SEED = 16

pytestmark = pytest.mark.anyio
long = pytest.mark.skipif("TASKQ_TEST_LONG" not in os.environ, reason="takes its time, or measures: make test-long")


async def test_as_16_a_job_is_there_with_its_row_whoever_rolls_back_or_dies_before_the_commit(
    postgres: Process,
) -> None:
    app, chance, orders = App(queue_on(postgres)), random.Random(SEED), f"orders_{uuid4().hex}"

    @app.task
    async def confirm(order: int) -> None: ...

    async with app, plain(postgres.url) as direct:
        await direct.execute(f"CREATE TABLE {orders} (id integer)")
        for order in range(40):
            connection = await asyncpg.connect(postgres.url)
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"INSERT INTO {orders} VALUES ($1)", order)  # noqa: S608
            await confirm.options(tx=connection).defer(order)
            (end,) = chance.choices(["commit", "roll back", "die"], [4, 5, 1])
            if end == "commit":
                await transaction.commit()
            elif end == "roll back":
                await transaction.rollback()
            # Without a word, as of a process that is killed.
            connection.terminate()
        rows = [row["id"] for row in await direct.fetch(f"SELECT id FROM {orders} ORDER BY id")]  # noqa: S608
        assert [job.arguments["order"] for job in await deferred(app)] == rows
        assert 5 < len(rows) < 30
        await direct.execute(f"DROP TABLE {orders}")


async def test_as_37_a_credit_is_granted_once_although_connections_end_all_the_time(own: Process) -> None:
    app = App(f"{own.url}?migrate=1", slots=8, lease=1.0)

    @app.task(transaction=True, retry=Retry.fixed(100, 0.01), idempotent=True)
    async def grant(account: int) -> None:
        connection = current().connection
        await connection.execute("UPDATE accounts SET credit = credit + 1 WHERE id = $1", account)
        await connection.execute("INSERT INTO charges VALUES ($1)", current().idempotency_key)

    async with plain(own.url) as direct:
        await direct.execute("CREATE TABLE accounts (id integer PRIMARY KEY, credit integer)")
        await direct.execute("CREATE TABLE charges (key text PRIMARY KEY)")
        await direct.execute("INSERT INTO accounts VALUES (0, 0), (1, 0)")
        async with app:
            jobs = await app.defer_many(grant.call(n % 2) for n in range(100))
            async with app.working():
                while len(done := await direct.fetch("SELECT key FROM charges")) < len(jobs):
                    await direct.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                        " AND backend_type = 'client backend' ORDER BY random() LIMIT 2"
                    )
                    # Ten in a second.
                    await anyio.sleep(0.2)
        assert {row["key"] for row in done} == {job.id for job in jobs}
        assert [row["credit"] for row in await direct.fetch("SELECT credit FROM accounts ORDER BY id")] == [50, 50]


async def test_as_30_four_apps_of_five_hundred_slots_are_content_with_thirty_connections() -> None:
    with postgresql.postgres(options=["max_connections=30"]) as server:
        apps = [App(f"{server.url}?migrate=1", slots=500) for _ in range(4)]
        running, most = 0, 0
        for app in apps:

            @app.task(name="io")
            async def io(_: int) -> None:
                nonlocal running, most
                running += 1
                most = max(most, running)
                await anyio.sleep(0.2)
                running -= 1

        async with plain(server.url) as direct, AsyncExitStack() as stack:
            for app in apps:
                await stack.enter_async_context(app)
            await apps[0].defer_many(apps[0].find_task("io").call(n) for n in range(1000))
            for app in apps:
                await stack.enter_async_context(app.working())
            used = 0

            async def all_done() -> bool:
                nonlocal used
                count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                used = max(used, await direct.fetchval(count))
                return await idle(apps[0])

            await wait_until(all_done)
            assert most > 100
            assert used - 1 <= 4 * 5


async def test_a_worker_that_uses_all_there_is_holds_the_connections_that_are_counted(postgres: Process) -> None:
    name, held, gate = f"counted-{uuid4().hex}", [0], anyio.Event()
    app = App(f"{queue_on(postgres)}&application_name={name}", lease=0.6)
    place = Concurrency(1, name=name)

    @app.task
    async def enter() -> None:
        async with place.of("here"):
            await gate.wait()

    @app.task(transaction=True)
    async def write() -> None:
        await gate.wait()

    async with app, plain(postgres.url) as direct, app.working():
        await app.defer_many([enter.call(), write.call()])

        async def all_are_held() -> bool:
            await asyncio.gather(*(app.admin.stats(["default"]) for _ in range(10)))
            count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
            held.append(await direct.fetchval(count, name))
            return max(held) == 5

        await wait_until(all_are_held)
        gate.set()
    assert max(held) == 5 == 2 + BESIDE


async def idle(app: App) -> bool:
    (queue,) = await app.admin.stats(["default"])
    return queue.ready + queue.leased == 0


async def test_what_came_while_a_fetch_was_under_way_is_due_when_it_is_fetched(postgres: Process, schema: str) -> None:
    # The fetch stops between reading the clock and looking at the line, until the lock is let go.
    stop = f"""ALTER FUNCTION {schema}.promote(text, boolean, float8, float8) RENAME TO promoted;
        CREATE FUNCTION {schema}.promote(
            line text, in_groups boolean, moment float8, since float8, OUT reached float8, OUT oldest float8
        ) LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('{schema}'));
            SELECT * INTO reached, oldest FROM {schema}.promoted(line, in_groups, moment, since);
        END $$"""  # noqa: S608
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = hashtext($1)::oid"
    lock = "SELECT pg_advisory_{}lock(hashtext($1))"
    deliveries: list[Delivery] = []
    async with connect(postgres.url, schema=schema, migrate=True) as backend, plain(postgres.url) as direct:
        # Of less priority, and due: only what time has moved leads there.
        await backend.broker.enqueue([Job(id="early", task="task", body=b"{}", priority=-1, delay=60)])
        await direct.execute(f"UPDATE {schema}.jobs SET due = 0")  # noqa: S608
        await direct.execute(stop)
        await direct.execute(lock.format(""), schema)

        async def fetch() -> None:
            deliveries.extend(await backend.broker.fetch(["default"], 1, lease=60, wait=0))

        async def waits() -> bool:
            return bool(await direct.fetchval(waiting, schema))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch)
            await wait_until(waits)
            await backend.broker.enqueue([Job(id="late", task="task", body=b"{}")])
            await direct.execute(lock.format("un"), schema)
    (delivery,) = deliveries
    assert delivery.job.id == "late"
    assert delivery.due <= delivery.now


async def test_as_35_a_waiting_worker_has_each_job_when_it_is_told_of_and_not_by_looking(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "LOOK", inf)
    async with opened() as worker, opened() as producer:

        async def wait(job: str) -> None:
            assert names(await worker.broker.fetch(["q"], 1, lease=60, wait=SOON)) == [job]

        for n in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, str(n))
                await anyio.wait_all_tasks_blocked()
                await add(producer.broker, a_job("q", str(n)))


@pytest.mark.long
@long
async def test_as_12_a_job_that_blocks_its_loop_for_ten_leases_is_not_handed_to_anybody_else(postgres: Process) -> None:
    app, over, others = App(queue_on(postgres), lease=1.0), threading.Event(), list[Delivery]()

    @app.task
    async def block() -> int:
        other.start()
        time.sleep(10.0)  # noqa: ASYNC251 - this is what is tested
        return current().losses

    async def ask() -> None:
        async with connect(app.settings.url) as backend:
            while not over.is_set():
                others.extend(await backend.broker.fetch(["default"], 1, lease=60, wait=0.1))

    other = threading.Thread(target=lambda: asyncio.run(ask()))
    async with app, app.working():
        assert await (await block.defer()).result(2 * SOON) == 0
        over.set()
        await anyio.to_thread.run_sync(other.join)
    assert others == []


@pytest.mark.long
@long
async def test_as_33_a_hundred_slots_run_a_hundred_jobs_at_once(postgres: Process) -> None:
    assert await most_at_once(App(queue_on(postgres), slots=100)) == 100


@pytest.mark.long
@long
async def test_as_35_a_job_starts_soon_at_fifty_jobs_a_second(
    postgres: Process, row: Callable[[str, str, Mapping[str, object]], None]
) -> None:
    half, most = await waits_at_fifty_a_second(App(queue_on(postgres)))
    shown = f"from defer to start at 50 jobs/s: half within {half * 1000:.1f} ms, 99 % within {most * 1000:.0f} ms"
    row("pace-postgresql", HEAD, {"shown": shown})
    assert half <= 0.02
    assert most <= 0.25
