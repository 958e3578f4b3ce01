"""taskiq on a Redis list (at most once) or stream."""

from taskiq.api import run_receiver_task
from taskiq_redis import ListQueueBroker, RedisStreamBroker

from benchmarks.peers.recorder import Ledger, Order, send, serve


def broker_of(order: Order) -> ListQueueBroker | RedisStreamBroker:
    if order.options["shape"] == "list":
        return ListQueueBroker(order.url)
    return RedisStreamBroker(order.url, consumer_id="0")


async def defer(order: Order) -> None:
    broker = broker_of(order)

    @broker.task(task_name="job")
    async def job(number: int, content: str) -> None: ...

    await broker.startup()
    await send(order, job.kiq, None)


async def work(order: Order) -> None:
    broker = broker_of(order)
    broker.is_worker_process = True
    broker.register_task(Ledger(order).handler(), task_name="job")
    await broker.startup()
    await run_receiver_task(broker, max_async_tasks=order.slots, max_prefetch=order.slots)


if __name__ == "__main__":
    serve("taskiq taskiq-redis redis hiredis uvloop", {"defer": defer, "work": work})
