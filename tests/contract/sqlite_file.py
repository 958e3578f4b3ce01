"""A database file, and what may happen to it."""

import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
from anyio import to_thread
from taskq_sqlite import connect

from taskq.broker import Backend
from taskq.testing.deployment import Deployment

_DIES = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM taskq_jobs")
os._exit(1)
"""


class _Sqlite:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> AbstractAsyncContextManager[Backend]:
        # What severs the backend holds the write lock, and each verb waits this long for it.
        return connect(f"sqlite:///{self._path}", busy_timeout=1.0)

    async def residue(self) -> Collection[str]:
        """Each row of each table, but for counts and the bookkeeping of the migrations."""
        with closing(sqlite3.connect(self._path)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            own = {name for name in tables if name.startswith("taskq_")} - {"taskq_migrations", "taskq_lapsed"}
            # Table names cannot be parameters.
            return [f"{name}: {row}" for name in own for row in connection.execute(f"SELECT * FROM {name}")]  # noqa: S608

    async def restart(self) -> None:
        """An embedded database ends with its process: one dies in the middle of a transaction."""
        await to_thread.run_sync(partial(subprocess.run, [sys.executable, "-c", _DIES, self._path], timeout=30))

    @asynccontextmanager
    async def sever(self, backend: Backend) -> AsyncGenerator[None]:  # noqa: ARG002  # every backend on the file
        with closing(sqlite3.connect(self._path, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            yield
            holder.execute("ROLLBACK")


@pytest.fixture
def sqlite_deployment(tmp_path: Path) -> Deployment:
    sqlite = _Sqlite(tmp_path / "taskq.db")
    return Deployment(
        open=sqlite.open,
        residue=sqlite.residue,
        restart=sqlite.restart,
        sever=sqlite.sever,
        driver_errors=(sqlite3.Error,),
    )
