"""dramatiq: on threads for jobs that compute, on its asyncio middleware for jobs that wait."""

import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO

from benchmarks.peers.recorder import THREADS, Ledger, Order, send_blocking, serve


def broker_of(order: Order) -> RedisBroker:
    broker = RedisBroker(url=order.url)
    dramatiq.set_broker(broker)
    return broker


def defer(order: Order) -> None:
    broker_of(order)

    @dramatiq.actor(actor_name="job", queue_name="default")
    def job(number: int, content: str) -> None: ...

    send_blocking(order, job.send)


def work(order: Order) -> None:
    ledger, broker = Ledger(order), broker_of(order)
    waits = order.kind == "nap"
    if waits:
        broker.add_middleware(AsyncIO())
    handler = ledger.handler() if waits else ledger.blocking_handler()
    dramatiq.actor(handler, actor_name="job", queue_name="default")
    dramatiq.Worker(broker, worker_threads=order.slots if waits else THREADS).start()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    serve("dramatiq redis hiredis", {"defer": defer, "work": work})
