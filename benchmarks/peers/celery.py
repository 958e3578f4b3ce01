"""celery on threads, late acks, prefetch raised, results ignored."""

from typing import Any

from celery import Celery

from benchmarks.peers.recorder import THREADS, Ledger, Order, send_blocking, serve


def app_of(order: Order, **settings: Any) -> Celery:
    app = Celery("bench", broker=order.url)
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=16,
        worker_send_task_events=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        **settings,
    )
    return app


def defer(order: Order) -> None:
    produce(app_of(order), order)


def produce(app: Celery, order: Order) -> None:
    @app.task(name="job")
    def job(number: int, content: str) -> None: ...

    send_blocking(order, job.delay)


def work(order: Order) -> None:
    consume(app_of(order), order)


def consume(app: Celery, order: Order) -> None:
    app.task(name="job")(Ledger(order).blocking_handler())
    threads = order.slots if order.kind == "nap" else THREADS
    flags = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
    app.worker_main(["worker", "--pool=threads", f"--concurrency={threads}", *flags])


if __name__ == "__main__":
    serve("celery kombu redis hiredis", {"defer": defer, "work": work})
