"""The servers that are measured on, each started for this run, empty before each measurement, and watched."""

import asyncio
import json
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import asyncpg

from tests.servers.postgres import postgres
from tests.servers.process import Process
from tests.servers.valkey import ask, single

DURABLE = ("fsync=on", "full_page_writes=on", "synchronous_commit=on", "shared_buffers=256MB", "max_wal_size=4GB")
"""PostgreSQL with every commit on disk before it is confirmed."""


class Ground(Protocol):
    """Where jobs are kept."""

    name: str

    @property
    def pid(self) -> int: ...
    def fresh(self, side: str) -> str:
        """The URL of an empty place with this side's schema, if that was made."""
        ...

    def blank(self, side: str) -> str:
        """The URL of a place to make this side's schema in."""
        ...

    def counters(self) -> Mapping[str, float]:
        """What the server has done so far."""
        ...


class Redis:
    """Valkey with an append-only file, flushed each second, for everybody."""

    name = "redis"

    def __init__(self, server: Process) -> None:
        self._server = server

    @property
    def pid(self) -> int:
        return self._server.pid

    def fresh(self, side: str) -> str:  # noqa: ARG002 - no side has a schema here
        ask(self._server, "FLUSHALL SYNC")
        return f"{self._server.url}/0"

    blank = fresh

    def counters(self) -> Mapping[str, float]:
        stats = dict(line.split(":", 1) for line in ask(self._server, "INFO stats").splitlines() if ":" in line)
        calls = re.findall(r"calls=(\d+)", ask(self._server, "INFO commandstats"))
        return {
            "commands": float(sum(map(int, calls))),
            "reads": float(stats["total_reads_processed"]),
            "held": float(re.findall(r"used_memory:(\d+)", ask(self._server, "INFO memory"))[0]),
        }


class Postgres:
    """PostgreSQL, a fresh database for each measurement."""

    name = "postgres"

    def __init__(self, server: Process) -> None:
        self._server = server
        self._numbers = 0

    @property
    def pid(self) -> int:
        return self._server.pid

    def fresh(self, side: str) -> str:
        self._numbers += 1
        old, new = f"bench_{self._numbers - 1}", f"bench_{self._numbers}"
        asyncio.run(
            self._do(f"DROP DATABASE IF EXISTS {old} WITH (FORCE)", f'CREATE DATABASE {new} TEMPLATE "made_{side}"')
        )
        return self._url(new)

    def blank(self, side: str) -> str:
        asyncio.run(self._do(f'DROP DATABASE IF EXISTS "made_{side}" WITH (FORCE)', f'CREATE DATABASE "made_{side}"'))
        return self._url(f"made_{side}")

    def counters(self) -> Mapping[str, float]:
        return asyncio.run(self._count())

    def _url(self, database: str) -> str:
        return f"{self._server.url.rpartition('/')[0]}/{database}"

    async def _do(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._server.url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def _count(self) -> Mapping[str, float]:
        connection = await asyncpg.connect(self._server.url)
        try:
            row = await connection.fetchrow(
                """SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal,
                          (SELECT sum(xact_commit) FROM pg_stat_database) AS commits"""
            )
            assert row is not None
            return {name: float(row[name]) for name in ("wal", "commits")}
        finally:
            await connection.close()


class Sqs:
    """A server of our own, whose speed is not Amazon's. Databases stand by as companions."""

    name = "sqs"

    def __init__(self, server: Process) -> None:
        self._server = server
        self._numbers = 0

    @property
    def pid(self) -> int:
        return self._server.pid

    def fresh(self, side: str) -> str:  # noqa: ARG002 - queues are made when they are met
        self._numbers += 1
        return f"sqs+http://127.0.0.1:{self._server.port}/bench{self._numbers}?region=us-east-1&create=1"

    blank = fresh

    def counters(self) -> Mapping[str, float]:
        with urllib.request.urlopen(self._server.url, b"{}", timeout=5.0) as answer:  # noqa: S310 - our own
            return {"calls": float(json.loads(answer.read())["Calls"])}


@contextmanager
def redis() -> Generator[Redis]:
    """A server that ends with the context."""
    with tempfile.TemporaryDirectory() as folder, single(Path(folder)) as server:
        yield Redis(server)


@contextmanager
def postgresql() -> Generator[Postgres]:
    """A server that ends with the context."""
    with postgres(options=DURABLE) as server:
        yield Postgres(server)


@contextmanager
def fast_sqs() -> Generator[Sqs]:
    """A server that ends with the context, and so do the databases beside it."""
    os.environ.update(AWS_ACCESS_KEY_ID="any", AWS_SECRET_ACCESS_KEY="any")  # noqa: S106 - it takes any
    with tempfile.TemporaryDirectory() as folder, redis() as valkey, postgresql() as database:
        os.environ["BENCH_VALKEY"] = valkey.fresh("") + "?namespace={name}"
        os.environ["BENCH_POSTGRESQL"] = database.blank("companion") + "?schema={name}&migrate=1"
        os.environ["BENCH_SQLITE"] = f"sqlite:///{folder}/{{name}}.db"
        command = [sys.executable, "-m", "benchmarks.sqs_server"]
        url = "http://127.0.0.1:{port}"
        with Process(Path(folder), lambda port: [*command, str(port)], url=url, answers=answers) as server:
            yield Sqs(server)


def answers(server: Process) -> bool:
    """Whether it takes calls."""
    try:
        with urllib.request.urlopen(server.url, b"{}", timeout=5.0) as answer:  # noqa: S310 - our own
            return bool(answer.status == 200)
    except OSError:
        return False
