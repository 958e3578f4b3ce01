"""saq, on Redis and on PostgreSQL."""

import asyncio

from saq import Queue, Worker

from benchmarks.peers.recorder import Ledger, Order, send, serve


async def setup(order: Order) -> None:
    queue = Queue.from_url(order.url)
    await queue.connect()
    await queue.disconnect()


async def defer(order: Order) -> None:
    queue = Queue.from_url(order.url)
    await queue.connect()

    async def one(number: int, content: str) -> None:
        await queue.enqueue("job", number=number, content=content, ttl=-1)

    await send(order, one, None)


async def work(order: Order) -> None:
    run = Ledger(order).handler()

    async def job(context: object, *, number: int, content: str) -> None:
        await run(number, content)

    queue = Queue.from_url(order.url)
    await queue.connect()
    worker = Worker(queue, [("job", job)], concurrency=order.slots)
    worker.SIGNALS = []
    await worker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    serve("saq redis hiredis psycopg uvloop", {"setup": setup, "defer": defer, "work": work})
