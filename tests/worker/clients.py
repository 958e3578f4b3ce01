"""The callers of story AS-06: ``python -m tests.worker.clients <url>`` makes three calls 500 times each."""

import asyncio
import sys
from typing import Literal

from taskq import App

UNTIL: tuple[Literal["start", "success", "end"], ...] = ("start", "success", "end")
"""A task for each way to free a unique key."""


def unique_app(url: str) -> App:
    app = App(url)

    async def reindex(shop: int) -> int:
        return shop

    for until in UNTIL:
        app.task(name=until, unique=True, unique_until=until)(reindex)
    return app


async def main(url: str) -> None:
    async with (app := unique_app(url)):
        for _ in range(50):
            await asyncio.gather(*(app.find_task(until).defer(7) for until in UNTIL for _ in range(10)))
            print("deferred", flush=True)  # noqa: T201 - the test waits for it


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
