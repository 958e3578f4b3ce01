"""arq, polling each 10 ms."""

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from benchmarks.peers.recorder import Ledger, Order, send, serve


async def defer(order: Order) -> None:
    pool = await create_pool(RedisSettings.from_dsn(order.url))

    async def one(number: int, content: str) -> None:
        await pool.enqueue_job("job", number, content)

    await send(order, one, None)


async def work(order: Order) -> None:
    run = Ledger(order).handler()

    async def job(context: object, number: int, content: str) -> None:
        await run(number, content)

    worker = Worker(
        functions=[func(job, name="job", keep_result=0)],
        redis_settings=RedisSettings.from_dsn(order.url),
        max_jobs=order.slots,
        poll_delay=0.01,
        handle_signals=False,
        log_results=False,
    )
    await worker.async_run()


if __name__ == "__main__":
    serve("arq redis hiredis uvloop", {"defer": defer, "work": work})
