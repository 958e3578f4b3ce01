"""A PostgreSQL under test, directly or behind a pooler."""

from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
from taskq_postgres import connect

from taskq.broker import Backend
from taskq.testing.deployment import Deployment
from tests.servers import postgres as postgresql
from tests.servers.process import Process


class PostgresServer:
    """Opens backends, looks what they leave behind, restarts the server and cuts it off."""

    def __init__(self, server: Process, url: str, pooler: Process | None = None) -> None:
        self._server = server
        self._url = url
        self._pooler = pooler

    def open(self) -> AbstractAsyncContextManager[Backend]:
        return connect(self._url, migrate=True)

    async def residue(self) -> Collection[str]:
        """Each row of each table, but for the bookkeeping of the migrations."""
        connection = await asyncpg.connect(self._server.url)
        try:
            rows: list[str] = []
            for table in ("jobs", "ended", "keys", "members"):
                # Table names cannot be parameters.
                rows += [f"{table}: {row}" for row in await connection.fetch(f"SELECT * FROM taskq.{table}")]  # noqa: S608
            return rows
        finally:
            await connection.close()

    async def restart(self) -> None:
        self._server.stop(postgresql.IMMEDIATE)
        self._server.start()
        if self._pooler is not None:
            # It remembers for a while that the server was away.
            self._pooler.stop()
            self._pooler.start()

    @asynccontextmanager
    async def sever(self, backend: Backend) -> AsyncGenerator[None]:  # noqa: ARG002  # every backend on the server
        ended = self._pooler or self._server
        # A shutdown would wait for this blocked process, which may be in the middle of connecting.
        ended.kill()
        try:
            yield
        finally:
            ended.start()

    def deployment(self) -> Deployment:
        return Deployment(
            open=self.open,
            residue=self.residue,
            restart=self.restart,
            sever=self.sever,
            driver_errors=(asyncpg.PostgresError, asyncpg.InterfaceError, OSError),
        )
