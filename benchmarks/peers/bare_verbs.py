"""The backend's own verbs in a loop, one asyncio task a job, and nothing else: what is left without the worker.

The next fetch and the settlement of the last one are under way together, as in a worker.
"""

import asyncio
from typing import Any

from msgspec import json

from benchmarks.peers.ours import setup, task_of
from benchmarks.peers.recorder import Ledger, Order, send, serve
from taskq.job import Ack


async def defer(order: Order) -> None:
    """The backend's enqueue, awaited for each job or thousand."""
    app, job = task_of(order)
    async with app:
        broker = app.backend.broker

        async def one(number: int, content: str) -> None:
            await broker.enqueue([job.call(number, content).job])

        await send(order, one, lambda part: broker.enqueue([job.call(*call).job for call in part]))


async def work(order: Order) -> None:
    """Fetch, a task a job, settle."""
    handler = Ledger(order).handler()
    app, _ = task_of(order)
    loop, decode = asyncio.get_running_loop(), json.decode
    settled: asyncio.Future[Any] | None = None
    async with app:
        broker = app.backend.broker
        while True:
            fetched = asyncio.ensure_future(broker.fetch(["default"], order.slots, lease=30.0, wait=0.0))
            taken, *_ = await asyncio.gather(fetched, *([settled] if settled else []))
            if not taken:
                await asyncio.Event().wait()
            bodies = [delivery.job.body for delivery in taken]
            await asyncio.wait([loop.create_task(handler(decode(body)["args"]["number"], "")) for body in bodies])
            settled = asyncio.ensure_future(broker.settle([Ack(delivery.receipt) for delivery in taken]))


if __name__ == "__main__":
    serve("asyncpg uvloop", {"setup": setup, "defer": defer, "work": work})
