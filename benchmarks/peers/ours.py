"""taskq itself."""

from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.peers.recorder import Ledger, Order, send, serve
from taskq import App, Task


async def nothing(number: int, content: str) -> None:
    """What a producer knows of the task: its name and its signature."""


def task_of(
    order: Order, handler: Callable[[int, str], Coroutine[Any, Any, None]] = nothing
) -> tuple[App, Task[[int, str], None]]:
    """One task with a time limit, no result kept. Leases, fencing and rescue are always on."""
    app = App(order.url, slots=order.slots, keep=0)
    return app, app.task(name="job", timeout=60)(handler)


async def setup(order: Order) -> None:
    migrates = "?migrate=1" if order.url.startswith("postgresql") else ""
    async with App(order.url + migrates):
        pass


async def defer(order: Order) -> None:
    app, job = task_of(order)
    async with app:
        await send(order, job.defer, lambda part: app.defer_many(job.call(*call) for call in part))


async def work(order: Order) -> None:
    app, _ = task_of(order, Ledger(order).handler())
    await app.run_worker()


if __name__ == "__main__":
    serve("anyio msgspec redis hiredis asyncpg uvloop", {"setup": setup, "defer": defer, "work": work})
