"""The few moves that tests of the line share."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import quantiles
from typing import Any, TypeVar

import anyio
from msgspec.structs import replace

from taskq import App
from taskq.broker import Backend
from taskq.connect import connect
from taskq.events import Event
from taskq.job import Delivery, Job
from taskq.testing import run_until_idle
from taskq.worker.run import Run
from taskq.worker.worker import Worker

SOON = 20.0
"""Seconds anything may take before a test gives up."""

E = TypeVar("E", bound=Event)


def heard(app: App, kind: type[E]) -> list[E]:
    """Every event of this kind from now on."""
    events: list[E] = []
    app.events.subscribe(kind, events.append)
    return events


async def wait_until(check: Callable[[], object]) -> None:
    """Return when something has become true that nobody tells of."""
    with anyio.fail_after(SOON):
        while not check():  # noqa: ASYNC110 - threads and other workers can only be asked after
            await anyio.sleep(0.01)


def one_memory() -> Callable[[str], AbstractAsyncContextManager[Backend]]:
    """``connect`` for two apps on one memory."""
    opened: list[Backend] = []

    @asynccontextmanager
    async def connect_once(url: str) -> AsyncGenerator[Backend]:
        if opened:
            yield opened[0]
            return
        async with connect(url) as backend:
            opened.append(backend)
            yield backend

    return connect_once


async def lose(app: App, times: int, queue: str = "default") -> None:
    """Let so many workers die under the queue's first job."""
    for _ in range(times):
        (delivery,) = await app.backend.broker.fetch([queue], 1, lease=30, wait=0)
        await app.backend.broker.extend([delivery.receipt], 0)


async def hand_over(app: App, run: Run, taken: Callable[[], object]) -> None:
    """End a run's lease unnoticed, until another worker has taken the job.

    Once is not enough: a worker extends all leases when it begins to listen, which on a cluster takes a while.
    """
    with anyio.fail_after(SOON):
        while not taken():
            await app.backend.broker.extend([run.delivery.receipt], 0)
            await anyio.sleep(0.02)


async def steal(app: App, worker: Worker) -> Delivery:
    """What another worker gets when the lease of this one's only job has ended unnoticed; this one fetches no more."""
    (run,) = worker.running
    worker.quiet(True)
    await app.backend.broker.extend([run.delivery.receipt], 0)
    (delivery,) = await app.backend.broker.fetch([run.delivery.job.queue], 1, lease=30, wait=SOON)
    return delivery


def a_delivery(name: str = "a", **fields: Any) -> Delivery:
    job = Job(id=name, task="task", body=b'{"v":1,"args":{}}')
    delivery = Delivery(job=job, attempt=1, losses=0, fence=1, receipt=f"r-{name}", now=0.0, due=0.0)
    return replace(delivery, **fields)


async def waits_at_fifty_a_second(app: App) -> tuple[float, float]:
    """Half of a thousand jobs that are deferred at that pace start within the first, 99 % within the second."""
    waits, begun = list[float](), time.perf_counter()

    @app.task
    async def start(deferred: float) -> None:
        waits.append(time.perf_counter() - deferred)

    async with app, app.working():
        for n in range(1000):
            await anyio.sleep(max(0.0, begun + n / 50 - time.perf_counter()))
            await start.defer(time.perf_counter())
        await wait_until(lambda: len(waits) == 1000)
    cuts = quantiles(waits, n=100)
    return cuts[49], cuts[98]


async def most_at_once(app: App) -> int:
    """How many of a thousand jobs that wait for a moment each have run at the same time; all must have returned."""
    running, most = 0, 0

    @app.task
    async def io() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.1)
        running -= 1

    async with app:
        await app.defer_many(io.call() for _ in range(1000))
        worked = await run_until_idle(app, raise_failures=True)
    assert len(worked.finished) == 1000
    return most
