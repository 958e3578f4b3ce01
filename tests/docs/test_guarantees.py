"""The table of guarantees is what the backends declare; TASKQ_WRITE_PAGES=1 writes it anew."""

import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import pytest

from taskq.broker import Backend
from taskq.config import Settings
from taskq.opening import open_backend
from tests.backends.sqs.deployment import Tenant
from tests.docs.guarantees import BEGIN, END, Column, column, table
from tests.docs.pages import ROOT
from tests.servers.postgres import postgres as postgres_server
from tests.servers.process import Process
from tests.servers.tenants import queue_on, queue_on_cluster
from tests.servers.valkey import single

PAGE = ROOT / "docs/guides/choosing.md"


@pytest.fixture
async def columns(
    tmp_path: Path, valkey_cluster: list[Process], postgres: Process, sqs: Process
) -> AsyncGenerator[list[Column]]:
    made: list[Column] = []
    async with AsyncExitStack() as stack:

        async def open_at(url: str, companion: str | None) -> Backend:
            return await stack.enter_async_context(open_backend(Settings(url=url, companion=companion), print))

        async def add(title: str, *deployments: tuple[str, str], companion: str | None = None) -> None:
            """Deployments that differ in nothing but durability, and by what setting."""
            opened = [(await open_at(url, companion), setting) for url, setting in deployments]
            kept = [(backend.broker.traits.durability, setting) for backend, setting in opened]
            made.append(column(title, opened[0][0], kept))

        def valkey(aof: Literal["always", "everysec", "none"]) -> str:
            (tmp_path / aof).mkdir()
            return queue_on(stack.enter_context(single(tmp_path / aof, aof=aof)))

        file = f"sqlite:///{tmp_path}/taskq.db"
        await add("memory", ("memory://", ""))
        await add("SQLite", (file, ""), (f"{file}?synchronous=normal", "with `synchronous=normal`"))
        await add(
            "Redis, Valkey",
            (valkey("always"), "with `appendfsync always`"),
            (valkey("everysec"), "with `everysec`"),
            (valkey("none"), "with no append-only file"),
        )
        await add("Redis Cluster", (queue_on_cluster(valkey_cluster), "with `everysec`, and so on"))
        flushed = stack.enter_context(postgres_server(options=["fsync=on"]))
        await add("PostgreSQL", (queue_on(flushed), ""), (queue_on(postgres), "with `fsync=off`"))
        await add("SQS, standard", (Tenant(sqs).url, ""))
        await add("SQS, FIFO", (Tenant(sqs, fifo=1).url, ""))
        kept = "with SQLite, PostgreSQL, or `appendfsync always`"
        await add("SQS, standard, and companion", (Tenant(sqs).url, kept), companion=f"{file}.standard")
        await add("SQS, FIFO, and companion", (Tenant(sqs, fifo=1).url, kept), companion=f"{file}.fifo")
        yield made


@pytest.mark.anyio
async def test_the_table_of_guarantees_says_what_backends_declare(columns: list[Column]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    fresh = f"{before}{BEGIN}\n\n{table(columns)}\n{END}{after}"
    if "TASKQ_WRITE_PAGES" in os.environ:
        PAGE.write_text(fresh, encoding="utf-8")
    assert text == fresh, "TASKQ_WRITE_PAGES=1 pytest tests/docs/test_guarantees.py writes the table anew"
