"""huey on Redis, one thread (a hundred for jobs that wait: others it runs faster alone); at most once."""

import time

from huey import RedisHuey
from huey.consumer import Consumer

from benchmarks.peers.recorder import Ledger, Order, send_blocking, serve


def defer(order: Order) -> None:
    huey = RedisHuey(url=order.url, results=False)

    @huey.task(name="job")
    def job(number: int, content: str) -> None: ...

    send_blocking(order, job)


def work(order: Order) -> None:
    huey = RedisHuey(url=order.url, results=False)
    run = Ledger(order).blocking_handler()

    @huey.task(name="job")
    def job(number: int, content: str) -> None:
        run(number, content)

    threads = order.slots if order.kind == "nap" else 1
    Consumer(huey, workers=threads, periodic=False, initial_delay=0.01, max_delay=0.05).start()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    serve("huey redis hiredis", {"defer": defer, "work": work})
