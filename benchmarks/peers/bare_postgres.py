"""The same statements in a loop on two connections, one asyncio task a job, and nothing else.

The next fetch and the settlement of the last one are under way together, as in a worker.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from msgspec import json
from taskq_postgres import queries
from taskq_postgres.rows import arrays_of, deliveries_of, new_token, receipt_of

from benchmarks.peers.ours import setup, task_of
from benchmarks.peers.recorder import Call, Ledger, Order, send, serve

SQL = queries.load("taskq")


async def _nothing(_connection: object) -> None:
    """Instead of a round trip that resets a session which nobody has changed."""


async def defer(order: Order) -> None:
    """The enqueue statement, awaited for each job or thousand."""
    _, job = task_of(order)
    pool = await asyncpg.create_pool(order.url, min_size=10, max_size=10, reset=_nothing)

    async def bulk(part: Sequence[Call]) -> None:
        await pool.fetch(SQL.enqueue, *arrays_of([job.call(*call).job for call in part]), False)

    async def one(number: int, content: str) -> None:
        await bulk([(number, content)])

    await send(order, one, bulk)


async def work(order: Order) -> None:
    """Fetch, a task a job, settle."""
    handler = Ledger(order).handler()
    loop, decode = asyncio.get_running_loop(), json.decode
    fetching, settling = await asyncpg.connect(order.url), await asyncpg.connect(order.url)
    settled: asyncio.Future[Any] | None = None
    while True:
        token = new_token()
        fetched = asyncio.ensure_future(fetching.fetch(SQL.fetch, ["default"], order.slots, 30.0, token))
        rows, *_ = await asyncio.gather(fetched, *([settled] if settled else []))
        if rows[0]["id"] is None:
            await asyncio.Event().wait()
        tasks = [loop.create_task(handler(decode(row["body"])["args"]["number"], "")) for row in rows]
        await asyncio.wait(tasks)
        receipts = sorted(filter(None, (receipt_of(delivery.receipt) for delivery in deliveries_of(rows, token))))
        columns = [[one.queue for one in receipts], [one.id for one in receipts], [one.token for one in receipts]]
        settled = asyncio.ensure_future(settling.fetch(SQL.settle, *columns, *[None] * 4, None, 0.0, False))


if __name__ == "__main__":
    serve("asyncpg uvloop", {"setup": setup, "defer": defer, "work": work})
