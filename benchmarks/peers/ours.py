"""taskq itself."""

import os
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from benchmarks.peers.recorder import Ledger, Order, send, serve, together
from taskq import App, RateLimit, Task
from taskq.call import new_id
from taskq.context import Current
from taskq.middleware import Handler


async def nothing(number: int, content: str) -> None:
    """What a producer knows of the task: its name and its signature."""


def task_of(
    order: Order, handler: Callable[[int, str], Coroutine[Any, Any, None]] = nothing
) -> tuple[App, Task[[int, str], Any]]:
    """One task with a time limit, no result kept. Leases, fencing and rescue are always on."""
    feature = order.options.get("feature")
    keep = 3600.0 if feature == "result" else 0.0
    middleware = [straight_through] if feature == "middleware" else []
    settings = {name: order.options[name] for name in ("lease",) if name in order.options}
    app = App(order.url, slots=order.slots, keep=keep, middleware=middleware, companion=companion(order), **settings)

    async def answering(number: int, content: str) -> int:
        await handler(number, content)
        return number

    if feature == "tracing":
        trace(app)
    limits = [RateLimit(1_000_000)] if feature == "limit" else []
    return app, app.task(name="job", timeout=60, limits=limits)(answering if feature == "result" else handler)


def trace(app: App) -> None:
    """Record a span for each defer and each run, and export none."""
    from opentelemetry.sdk.trace import TracerProvider

    from taskq.telemetry import OpenTelemetry

    OpenTelemetry(tracer_provider=TracerProvider()).instrument(app)


def companion(order: Order) -> str | None:
    """The URL of the ordered database, and in it a place for this queue alone."""
    database = order.options.get("companion")
    return os.environ[f"BENCH_{database.upper()}"].format(name=urlsplit(order.url).path[1:]) if database else None


async def straight_through(current: Current, handler: Handler) -> object:
    """The least a middleware can do."""
    return await handler(current)


async def setup(order: Order) -> None:
    migrates = "?migrate=1" if order.url.startswith("postgresql") else ""
    async with App(order.url + migrates):
        pass


def chosen(job: Task[[int, str], Any], order: Order) -> Callable[[int], Task[[int, str], Any]]:
    """The task with the ordered feature, for each job's number."""
    match order.options.get("feature"):
        case "unique":
            return lambda number: job.options(unique=str(number))
        case "group":
            return lambda number: job.options(group=str(number % 100))
        case _:
            return lambda _number: job


async def defer(order: Order) -> None:
    app, job = task_of(order)
    with_feature = chosen(job, order)
    async with app:
        if order.options.get("feature") == "batch":
            # The program ends in here, before the batch is sealed: its members end all the same.
            async with app.batch(new_id()) as batch:
                await send(
                    order,
                    lambda number, content: batch.add([job.call(number, content)]),
                    lambda part: batch.add(job.call(number, content) for number, content in part),
                )
        await send(
            order,
            job.defer,
            lambda part: app.defer_many(with_feature(number).call(number, content) for number, content in part),
        )


async def work(order: Order) -> None:
    app, _ = task_of(order, Ledger(order).handler())
    await app.run_worker()


async def share(order: Order) -> None:
    async def work(handler: Callable[[int, str], Coroutine[Any, Any, None]]) -> None:
        app, _ = task_of(order, handler)
        await app.run_worker(until="idle")

    await together(order, work)


if __name__ == "__main__":
    serve(
        "anyio msgspec redis hiredis asyncpg aioboto3 uvloop",
        {"setup": setup, "defer": defer, "work": work, "share": share},
    )
