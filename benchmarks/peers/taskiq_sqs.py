"""taskiq on SQS: it receives ten at once and deletes one by one.

It sends one by one, too: with ``enable_batching`` its ``kiq`` answers before anything is sent.
"""

from urllib.parse import urlsplit

from aiobotocore.session import get_session
from taskiq.api import run_receiver_task
from taskiq_aio_sqs import SQSBroker

from benchmarks.peers.recorder import Ledger, Order, send, serve


async def broker_of(order: Order) -> SQSBroker:
    parts = urlsplit(order.url)
    endpoint, queue = f"http://{parts.netloc}", parts.path.strip("/")
    async with get_session().create_client("sqs", endpoint_url=endpoint, region_name="us-east-1") as client:
        await client.create_queue(QueueName=queue)
    return SQSBroker(
        queue,
        endpoint_url=endpoint,
        region_name="us-east-1",
        wait_time_seconds=1,
        max_number_of_messages=10,
    )


async def defer(order: Order) -> None:
    broker = await broker_of(order)

    @broker.task(task_name="job")
    async def job(number: int, content: str) -> None: ...

    await broker.startup()
    await send(order, job.kiq, None)


async def work(order: Order) -> None:
    broker = await broker_of(order)
    broker.is_worker_process = True
    broker.register_task(Ledger(order).handler(), task_name="job")
    await broker.startup()
    await run_receiver_task(broker, max_async_tasks=order.slots, max_prefetch=order.slots)


if __name__ == "__main__":
    serve("taskiq taskiq-aio-sqs aiobotocore uvloop", {"defer": defer, "work": work})
