"""pgqueuer on asyncpg: dequeues and acks in batches."""

import json
from collections.abc import Sequence

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers.recorder import Call, Ledger, Order, send, serve


async def setup(order: Order) -> None:
    await Queries(AsyncpgDriver(await asyncpg.connect(order.url))).install()


async def defer(order: Order) -> None:
    queries = Queries(AsyncpgPoolDriver(await asyncpg.create_pool(order.url, min_size=10, max_size=20)))

    async def one(number: int, content: str) -> None:
        await queries.enqueue("job", json.dumps([number, content]).encode())

    async def bulk(part: Sequence[Call]) -> None:
        await queries.enqueue(["job"] * len(part), [json.dumps(call).encode() for call in part], [0] * len(part))

    await send(order, one, bulk)


async def work(order: Order) -> None:
    run = Ledger(order).handler()
    pgq = PgQueuer(AsyncpgPoolDriver(await asyncpg.create_pool(order.url, min_size=2, max_size=20)))

    @pgq.entrypoint("job")
    async def job(job: Job) -> None:
        await run(*json.loads(job.payload))

    await pgq.run(batch_size=order.options["batch"], max_concurrent_tasks=order.options.get("most"))


if __name__ == "__main__":
    serve("pgqueuer asyncpg uvloop", {"setup": setup, "defer": defer, "work": work})
