"""awa: a Rust engine with its queue storage, under Python handlers."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from awa import AsyncClient

from benchmarks.peers.recorder import Call, Ledger, Order, send, serve


@dataclass
class Arguments:
    number: int
    content: str


async def setup(order: Order) -> None:
    client = AsyncClient(order.url)
    await client.migrate()
    await client.install_queue_storage()


async def defer(order: Order) -> None:
    client = AsyncClient(order.url, max_connections=20)

    async def one(number: int, content: str) -> None:
        await client.insert(Arguments(number, content))

    async def bulk(part: Sequence[Call]) -> None:
        await client.enqueue_many_copy([Arguments(*call) for call in part])

    await send(order, one, bulk)


async def work(order: Order) -> None:
    run = Ledger(order).handler()
    client = AsyncClient(order.url, max_connections=20)

    @client.task(Arguments)
    async def job(job) -> None:
        await run(job.args.number, job.args.content)

    await client.start([("default", order.slots)], poll_interval_ms=10)
    await asyncio.Event().wait()


if __name__ == "__main__":
    serve("awa-pg uvloop", {"setup": setup, "defer": defer, "work": work})
