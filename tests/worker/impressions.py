"""The worker of story AS-24: it dies under the first run of each window, before it has written anything.

``python -m tests.worker.impressions <url> <file>`` works until it dies.
"""

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import closing
from typing import NamedTuple

from taskq import App, Collect, Task, current

QUEUE = "views"
LEASE = 0.6


class View(NamedTuple):
    post: int
    reader: int


def declare(url: str, file: str, wait: float = 1.0) -> tuple[App, Task[[View], None]]:
    app = App(url, slots=1, lease=LEASE, queues=(QUEUE,))

    @app.task(name="count", queue=QUEUE, collect=Collect(size=50, wait=wait, key=("post",)), max_losses=100)
    async def count(views: list[View]) -> None:
        if current().losses == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("INSERT INTO updates VALUES (?, ?)", (current().id, views[0].post))
            database.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", set(views))

    return app, count


if __name__ == "__main__":
    asyncio.run(declare(sys.argv[1], sys.argv[2])[0].run_worker())
