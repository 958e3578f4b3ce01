"""A process that grants credit in its job's transaction and is killed at its n-th stop: ``granter.py url n``."""

import os
import signal
import sys

import anyio
import anyio.lowlevel

from taskq import App, current
from taskq.testing.lives import run_delivery
from taskq.testing.mortal import Died, Life
from taskq.testing.observers import answered


def bank(url: str) -> App:
    app = App(url)

    @app.task(name="grant", transaction=True, max_losses=10_000)
    async def grant(cents: int) -> None:
        for _ in range(cents):
            await anyio.lowlevel.checkpoint()
            await answered(current().connection.execute("UPDATE account SET balance = balance + 1"))
        await grant_receipt.defer()

    @app.task(name="receipt", queue="receipts")
    async def grant_receipt() -> None: ...

    return app


async def main(url: str, stops: int) -> None:
    app = bank(url)
    async with app:
        # Who is killed leaves its job to the next one at once.
        (delivery,) = await app.backend.broker.fetch(["default"], 1, lease=0.01, wait=20.0)
        try:
            await run_delivery(app, delivery, app.find_task("grant"), Life(stops))
        except Died:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
