import asyncio
from typing import Any

import asyncpg
import pytest

from tests.servers.pgbouncer import pgbouncer, pgbouncer_binary
from tests.servers.process import Process


def transaction(server: Process) -> Any:
    """The answer of one transaction, over a connection of its own."""

    async def ask() -> Any:
        connection = await asyncpg.connect(server.url, timeout=10.0, statement_cache_size=0)
        try:
            async with connection.transaction():
                return await connection.fetchval("select current_setting('server_version_num')::int", timeout=10.0)
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_it_serves_transactions_of_the_server_behind_it(pgbouncer: Process) -> None:
    assert transaction(pgbouncer) >= 180000


def test_it_comes_back_on_its_port_after_its_death(postgres: Process) -> None:
    binary = pgbouncer_binary()
    if binary is None:
        pytest.skip("pgbouncer is not found here")
    with pgbouncer(binary, postgres) as server:
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            transaction(server)
        server.start()
        assert transaction(server) >= 180000
