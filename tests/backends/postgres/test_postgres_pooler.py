"""Behind PgBouncer in transaction mode: no prepared statements, and each transaction on any connection."""

from contextlib import AsyncExitStack

import anyio
import asyncpg
import psycopg
import pytest
from taskq_postgres import connect

from taskq.broker import Backend
from taskq.job import Ack, Lease
from taskq.testing.deployment import a_job, add, names, take, take_one
from tests.backends.postgres.conftest import plain
from tests.servers.fixtures import pgbouncer as pgbouncer
from tests.servers.process import Process

CLIENTS = 20
SERVED_BY = 3
TURNS = 3

pytestmark = pytest.mark.anyio


async def test_twenty_clients_work_on_three_connections_of_the_server(
    postgres: Process, pgbouncer: Process, schema: str
) -> None:
    done: list[str] = []

    async def run_some(backend: Backend) -> None:
        taken = await backend.broker.fetch(["q"], 6, lease=60, wait=0)
        assert set(await backend.broker.extend([one.receipt for one in taken], 60)) <= {Lease.HELD}
        assert all(await backend.broker.settle([Ack(one.receipt, b"done", 60) for one in taken]))
        done.extend(names(taken))

    async def work(backend: Backend, mine: int) -> None:
        assert backend.store is not None
        assert backend.transactions is not None
        for turn in range(TURNS):
            await add(backend.broker, *(a_job("q", f"{mine}-{turn}-{n}", group=f"g{n}") for n in range(5)))
            async with backend.transactions.begin() as connection:
                assert (await backend.transactions.join(connection).enqueue([a_job("q", f"{mine}-{turn}-tx")]))[0].added
            await backend.store.add("turns", [f"{mine}-{turn}"])
            await run_some(backend)

    async with AsyncExitStack() as stack, plain(postgres.url) as direct:
        clients = [
            await stack.enter_async_context(connect(f"{pgbouncer.url}?schema={schema}", migrate=True))
            for _ in range(CLIENTS)
        ]
        async with anyio.create_task_group() as tasks:
            for mine, backend in enumerate(clients):
                tasks.start_soon(work, backend, mine)
        # Of a group one at a time was to be had.
        while len(done) < CLIENTS * TURNS * 6:
            await run_some(clients[0])
        assert clients[0].store is not None
        assert len((await clients[0].store.get("turns")).members) == CLIENTS * TURNS
        assert all(client.hints is None for client in clients)
        sessions = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        assert await direct.fetchval(sessions) <= SERVED_BY
    assert len(done) == len(set(done)) == CLIENTS * TURNS * 6


async def test_a_callers_transaction_is_joined_through_the_pooler(pgbouncer: Process, schema: str) -> None:
    async with connect(f"{pgbouncer.url}?schema={schema}", migrate=True) as backend:
        assert backend.transactions is not None
        with psycopg.connect(pgbouncer.url, prepare_threshold=None) as blocking:
            for n in range(10):
                await backend.transactions.join(blocking).enqueue([a_job("q", f"psycopg-{n}")])
                blocking.commit() if n % 2 else blocking.rollback()
        direct = await asyncpg.connect(pgbouncer.url, statement_cache_size=0)
        for n in range(3):
            async with direct.transaction():
                await backend.transactions.join(direct).enqueue([a_job("q", f"asyncpg-{n}")])
        await direct.close()
        delivery = await take_one(backend.broker, "q")
        assert names([delivery]) == ["psycopg-1"]
        assert len(await take(backend.broker, "q", 7)) == 7
