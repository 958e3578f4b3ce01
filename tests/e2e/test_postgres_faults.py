"""What only PostgreSQL suffers from, while a worker process and a producer go on: no promise is broken."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import anyio
import asyncpg
import pytest

from tests.e2e.harness import LONG, PATIENCE
from tests.e2e.load import LEASE, Loading
from tests.servers import pgbouncer as bouncers
from tests.servers import postgres as postgresql
from tests.servers.process import Process
from tests.servers.proxy import proxied
from tests.servers.tenants import queue_on

Direct: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

BOTH = frozenset({True, False})
BOUNCER = bouncers.pgbouncer_binary()

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not LONG, reason="takes minutes; each day the same is tested within one process"),
]


@asynccontextmanager
async def plain(server: Process, **settings: str) -> AsyncGenerator[Direct]:
    """A connection of the driver's own."""
    connection = await asyncpg.connect(server.url, server_settings=settings)
    try:
        yield connection
    finally:
        connection.terminate()


async def test_work_goes_on_while_postgres_ends_ten_connections_a_second(
    postgres: Process, tmp_path: Path, load: Loading
) -> None:
    async with plain(postgres) as direct, load(queue_on(postgres), tmp_path) as loaded:
        for _ in range(12):
            await loaded.fault("connections")
            for _ in range(50):
                await direct.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
                )
                await anyio.sleep(0.1)  # ten in a second
            await loaded.resumes(1)


async def test_work_goes_on_when_idle_sessions_have_taken_all_connections_and_go(
    own_postgres: Process, tmp_path: Path, load: Loading
) -> None:
    async with plain(own_postgres, application_name="idle") as direct, load(queue_on(own_postgres), tmp_path) as loaded:
        for _ in range(10):
            await loaded.fault("no connection")
            async with AsyncExitStack() as idle:
                await take_all_connections(own_postgres, direct, idle)
                await loaded.producer.goes_unanswered(3)
            await loaded.resumes(20)


async def take_all_connections(server: Process, direct: Direct, idle: AsyncExitStack) -> None:
    """Whoever has one loses it, until all are idle ones."""
    others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'idle'"
    with anyio.fail_after(PATIENCE):
        while True:
            try:
                await idle.enter_async_context(plain(server, application_name="idle"))
            except asyncpg.TooManyConnectionsError:
                if not await direct.fetchval(f"SELECT count(pg_terminate_backend(pid)) {others}"):
                    return


async def test_no_job_is_lost_when_a_standby_is_promoted_behind_a_proxy_that_switches(
    own_postgres: Process, tmp_path: Path, load: Loading
) -> None:
    with ExitStack() as copies:
        async with proxied(own_postgres.port) as (proxy, port):
            url = queue_on(own_postgres).replace(f":{own_postgres.port}", f":{port}")
            primary = own_postgres
            async with load(url, tmp_path) as loaded:
                for _ in range(5):
                    # Making the copy takes longer than a lease, and the proxy stands still meanwhile.
                    await loaded.fault("failover")
                    standby = copies.enter_context(postgresql.standby(primary))
                    await confirm_on_standby(primary)
                    await loaded.flows(20)
                    primary.kill()
                    proxy.switch(standby.port)
                    await loaded.producer.goes_unanswered(2)
                    async with plain(standby) as direct:
                        assert await direct.fetchval("SELECT pg_promote()")
                    await loaded.resumes(20)
                    primary = standby


async def confirm_on_standby(primary: Process) -> None:
    """Returns when no commit is confirmed any more that is not on the standby as well."""
    async with plain(primary) as direct:
        await direct.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await direct.execute("SELECT pg_reload_conf()")
        with anyio.fail_after(PATIENCE):
            confirming = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            while not await direct.fetchval(confirming):  # noqa: ASYNC110 it can only be asked
                await anyio.sleep(0.05)


async def test_work_goes_on_when_a_listener_hears_nothing_any_more(
    postgres: Process, tmp_path: Path, load: Loading
) -> None:
    async with proxied(postgres.port) as (proxy, port):
        listen = quote(postgres.url.replace(f":{postgres.port}", f":{port}"), safe="")
        async with load(f"{queue_on(postgres)}&listen_url={listen}", tmp_path) as loaded:
            for _ in range(3):
                await loaded.fault("listener")
                proxy.deaf = BOTH
                # It is noticed after the next probe at the latest, 15 seconds later; work goes on at once.
                for _ in range(20):
                    await loaded.resumes(5)
                    await anyio.sleep(1.0)
                assert not loaded.producer.unanswered
                proxy.deaf = frozenset()
                await loaded.resumes(20)


@pytest.mark.skipif(BOUNCER is None, reason="pgbouncer is not found here")
@pytest.mark.parametrize("which", ["pooler", "server"])
async def test_work_goes_on_behind_a_pooler_when_it_or_its_server_is_back(
    which: str, own_postgres: Process, tmp_path: Path, load: Loading
) -> None:
    assert BOUNCER is not None
    with bouncers.pgbouncer(BOUNCER, own_postgres) as bouncer:
        ended = {"pooler": bouncer, "server": own_postgres}[which]
        # A call that waits in the pooler's queue is told nothing.
        async with load(f"{queue_on(bouncer)}&command_timeout={2 * LEASE}", tmp_path) as loaded:
            for _ in range(30):
                await loaded.fault(which)
                ended.kill()
                await loaded.producer.goes_unanswered(3)
                ended.start()
                await loaded.resumes(20)


@pytest.mark.parametrize(
    ("setting", "value", "tables"),
    [
        pytest.param("default_transaction_isolation", "serializable", [], id="serializable"),
        pytest.param("default_transaction_isolation", "repeatable read", [], id="repeatable-read"),
        pytest.param("default_transaction_read_only", "on", [], id="read-only"),
        pytest.param("lock_timeout", "50ms", ["jobs"], id="lock-timeout"),
        pytest.param("statement_timeout", "100ms", ["jobs"], id="statement-timeout"),
        # An enqueue reads the second after it wrote to the first.
        pytest.param("deadlock_timeout", "1s", ["ended", "jobs"], id="deadlock"),
    ],
)
async def test_work_goes_on_through_a_servers_own_limits_and_after_them(
    setting: str, value: str, tables: list[str], own_postgres: Process, tmp_path: Path, load: Loading
) -> None:
    url = f"{own_postgres.url}?schema=limited&migrate=1"
    async with plain(own_postgres, **UNLIMITED) as direct, load(url, tmp_path, workers=2) as loaded:
        for _ in range(10):
            await loaded.fault(setting)
            await direct.execute(f"ALTER SYSTEM SET {setting} = '{value}'")
            await direct.execute("SELECT pg_reload_conf()")
            async with rival(own_postgres, [f"limited.{table}" for table in tables]):
                if "isolation" in setting:
                    await loaded.flows(100)
                else:
                    await loaded.producer.goes_unanswered(3)
            await direct.execute(f"ALTER SYSTEM RESET {setting}")
            await direct.execute("SELECT pg_reload_conf()")
            await loaded.resumes(20)


UNLIMITED = {"default_transaction_read_only": "off", "deadlock_timeout": "1h"}
"""Settings of who is to be the last that a deadlock ends."""


@asynccontextmanager
async def rival(server: Process, tables: list[str]) -> AsyncGenerator[None]:
    """Somebody else who locks these tables one after the other, for as long as the block, again and again."""

    async def lock() -> None:
        async with plain(server, **UNLIMITED) as connection:
            while True:
                async with connection.transaction():
                    for table in tables:
                        await connection.execute(f"LOCK TABLE {table}")
                        await anyio.sleep(0.3)  # longer than whoever waits is to wait
                await anyio.sleep(0.1)  # somebody else's turn

    async with anyio.create_task_group() as tasks:
        if tables:
            tasks.start_soon(lock)
        yield
        tasks.cancel_scope.cancel()
