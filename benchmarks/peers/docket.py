"""docket at its stable concurrency of 32, looking each 5 ms instead of each 250."""

from collections.abc import Sequence
from datetime import timedelta

from docket import Docket, Worker

from benchmarks.peers.recorder import Call, Ledger, Order, send, serve


async def defer(order: Order) -> None:
    async def job(number: int, content: str) -> None: ...

    async with Docket(name="bench", url=order.url, execution_ttl=timedelta(0)) as docket:
        docket.register(job)

        async def one(number: int, content: str) -> None:
            await docket.add(job)(number, content)

        async def bulk(part: Sequence[Call]) -> None:
            await docket.add_many([docket.call(job)(*call) for call in part])

        await send(order, one, bulk)


async def work(order: Order) -> None:
    run = Ledger(order).handler()

    async def job(number: int, content: str) -> None:
        await run(number, content)

    async with Docket(name="bench", url=order.url, execution_ttl=timedelta(0)) as docket:
        docket.register(job)
        fast = timedelta(milliseconds=5)
        async with Worker(docket, concurrency=32, minimum_check_interval=fast, scheduling_resolution=fast) as worker:
            await worker.run_forever()


if __name__ == "__main__":
    serve("pydocket redis hiredis uvloop", {"defer": defer, "work": work})
