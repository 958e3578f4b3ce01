"""procrastinate on psycopg, finished jobs deleted."""

from collections.abc import Sequence

from procrastinate import App, PsycopgConnector

from benchmarks.peers.recorder import Call, Ledger, Order, send, serve


def app_of(order: Order) -> App:
    return App(connector=PsycopgConnector(conninfo=order.url, min_size=4, max_size=20))


async def setup(order: Order) -> None:
    async with app_of(order).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def defer(order: Order) -> None:
    async with app_of(order).open_async() as app:

        @app.task(name="job")
        async def job(number: int, content: str) -> None: ...

        async def one(number: int, content: str) -> None:
            await job.defer_async(number=number, content=content)

        async def bulk(part: Sequence[Call]) -> None:
            await job.batch_defer_async(*[{"number": number, "content": content} for number, content in part])

        await send(order, one, bulk)


async def work(order: Order) -> None:
    handler = Ledger(order).handler()
    async with app_of(order).open_async() as app:
        app.task(name="job")(handler)
        await app.run_worker_async(
            concurrency=order.slots,
            delete_jobs="always",
            install_signal_handlers=False,
            fetch_job_polling_interval=0.5,
        )


if __name__ == "__main__":
    serve("procrastinate psycopg uvloop", {"setup": setup, "defer": defer, "work": work})
