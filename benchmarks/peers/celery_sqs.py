"""celery on SQS, set as on Redis: kombu receives ten at once in one long poll, and sends and deletes one by one."""

from urllib.parse import urlsplit

from celery import Celery

from benchmarks.peers import celery
from benchmarks.peers.recorder import Order, serve


def app_of(order: Order) -> Celery:
    parts = urlsplit(order.url)
    # What looks after other workers needs queues of its own, which SQS would charge for.
    return celery.app_of(
        order,
        broker_url=f"sqs://any:any@{parts.netloc}",
        broker_transport_options={
            "region": "us-east-1",
            "is_secure": False,
            "wait_time_seconds": 1,
            "polling_interval": 0,
        },
        task_default_queue=parts.path.strip("/"),
        worker_enable_remote_control=False,
    )


def defer(order: Order) -> None:
    celery.produce(app_of(order), order)


def work(order: Order) -> None:
    celery.consume(app_of(order), order)


if __name__ == "__main__":
    serve("celery kombu boto3 pycurl", {"defer": defer, "work": work})
