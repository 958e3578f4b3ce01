"""The deployments under test: one fixture a backend."""

from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from taskq.broker import Backend
from taskq.memory import connect
from taskq.memory.broker import MemoryBroker
from taskq.memory.store import MemoryStore
from taskq.testing.deployment import Deployment
from tests.contract.postgres_server import PostgresServer
from tests.contract.redis_server import redis_deployment
from tests.contract.sqlite_file import sqlite_deployment
from tests.servers.fixtures import durable_postgres as durable_postgres
from tests.servers.fixtures import durable_redis as durable_redis
from tests.servers.fixtures import running as running
from tests.servers.process import Process


class Memory:
    """Memory lives in one process, so its processes share one backend; when the last has gone, so has it."""

    def __init__(self) -> None:
        self._open = 0
        self._stack = AsyncExitStack()
        self._backend: Backend | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Backend]:
        if self._backend is None:
            self._backend = await self._stack.enter_async_context(connect("memory://"))
        self._open += 1
        try:
            yield self._backend
        finally:
            self._open -= 1
            if not self._open:
                self._backend = None
                await self._stack.aclose()

    async def residue(self) -> Collection[str]:
        assert self._backend is not None
        broker, store = self._backend.broker, self._backend.store
        assert isinstance(broker, MemoryBroker)
        assert isinstance(store, MemoryStore)
        with broker.changing() as (jobs, _):
            held = jobs.held()
        return [*(name for name, count in held.items() if count), *store.keys()]

    async def restart(self) -> None:
        assert not self._open

    @asynccontextmanager
    async def sever(self, backend: Backend) -> AsyncGenerator[None]:
        assert isinstance(backend.broker, MemoryBroker)
        backend.broker.close()
        yield

    @property
    def deployment(self) -> Deployment:
        return Deployment(open=self.open, residue=self.residue, restart=self.restart, sever=self.sever)


@pytest.fixture
def memory_deployment() -> Deployment:
    return Memory().deployment


@pytest.fixture
def postgres_deployment(durable_postgres: Process) -> Deployment:
    return PostgresServer(durable_postgres, durable_postgres.url).deployment()


__all__ = ["redis_deployment", "sqlite_deployment"]
