"""rq's SimpleWorker, which forks for no job; results not kept."""

from collections.abc import Sequence

from redis import Redis
from rq import Queue, SimpleWorker

from benchmarks.peers import rq_job
from benchmarks.peers.recorder import Call, Ledger, Order, send_blocking, serve


def defer(order: Order) -> None:
    queue = Queue(connection=Redis.from_url(order.url))

    def one(number: int, content: str) -> None:
        queue.enqueue(rq_job.job, number, content, result_ttl=0)

    def bulk(part: Sequence[Call]) -> None:
        queue.enqueue_many([Queue.prepare_data(rq_job.job, args=call, result_ttl=0) for call in part])

    send_blocking(order, one, bulk)


def work(order: Order) -> None:
    rq_job.run = Ledger(order).blocking_handler()
    SimpleWorker(["default"], connection=Redis.from_url(order.url)).work(logging_level="ERROR")


if __name__ == "__main__":
    serve("rq redis hiredis", {"defer": defer, "work": work})
