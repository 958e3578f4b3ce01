"""streaq: Redis streams through coredis."""

from streaq import Worker

from benchmarks.peers.recorder import Ledger, Order, send, serve


async def defer(order: Order) -> None:
    worker = Worker(redis_url=order.url, concurrency=order.slots)

    @worker.task(name="job", ttl=0)
    async def job(number: int, content: str) -> None: ...

    async with worker:
        await send(order, job.enqueue, lambda part: worker.enqueue_many([job.enqueue(*call) for call in part]))


async def work(order: Order) -> None:
    ledger = Ledger(order)
    worker = Worker(redis_url=order.url, concurrency=order.slots, handle_signals=False)
    worker.task(name="job", ttl=0)(ledger.handler())
    await worker.run_async()


if __name__ == "__main__":
    serve("streaq coredis uvloop", {"defer": defer, "work": work})
