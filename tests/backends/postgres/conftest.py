"""A server of PostgreSQL 18 that all tests of a process share, and servers of their own for those that end one."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest
from taskq_postgres import connect

from taskq.broker import Backend
from taskq.errors import BrokerUnavailable
from taskq.testing.deployment import wait_until
from tests.servers.fixtures import own_postgres as own_postgres
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.process import Process

Opener = Callable[..., AbstractAsyncContextManager[Backend]]


@pytest.fixture
def schema() -> str:
    """One that no other test uses."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
def opened(postgres: Process, schema: str) -> Opener:
    """Connects to the shared server."""

    def connected(**options: object) -> AbstractAsyncContextManager[Backend]:
        return connect(postgres.url, **{"schema": schema, "migrate": True, **options})

    return connected


@pytest.fixture
def own(own_postgres: Process) -> Process:
    """A server that the test may end."""
    return own_postgres


@pytest.fixture
async def direct(postgres: Process, anyio_backend: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:  # noqa: ARG001
    """A plain connection to the shared server."""
    async with plain(postgres.url) as connection:
        yield connection


@asynccontextmanager
async def plain(url: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the driver's own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def again(call: Callable[[], Awaitable[object]]) -> None:
    """Repeat a call until the broker is there again."""

    async def once() -> bool:
        try:
            await call()
        except BrokerUnavailable:
            return False
        return True

    await wait_until(once)


async def terminate(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """End every session but this one."""
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
