"""The worker of story AS-24: it dies under the first run of each window, before it has written anything.

In the second one the views of every seventh reader fail, and come again alone.

``python -m tests.worker.impressions <url> <file>`` works until it dies.
"""

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import closing
from typing import NamedTuple

from taskq import App, Collect, Retry, SomeFailed, Task, current

QUEUE = "views"
LEASE = 0.6


class View(NamedTuple):
    post: int
    reader: int


def declare(url: str, file: str, wait: float = 1.0) -> tuple[App, Task[[View], None]]:
    app = App(url, slots=1, lease=LEASE, queues=(QUEUE,))

    collect = Collect(size=50, wait=wait, key=("post",))

    @app.task(name="count", queue=QUEUE, collect=collect, max_losses=100, retry=Retry.fixed(5, 0))
    async def count(views: list[View]) -> None:
        if current().losses == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        hard = [view for view in views if view.reader % 7 == 0]
        first = current().attempt == 1
        done = set(views).difference(hard) if first else set(views)
        with closing(sqlite3.connect(file)) as database, database:
            if first or len(hard) < len(views):
                # A second update of a window meets the primary key.
                database.execute("INSERT INTO updates VALUES (?, ?)", (current().id, views[0].post))
            database.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", done)
        if first and hard:
            raise SomeFailed(hard)

    return app, count


if __name__ == "__main__":
    asyncio.run(declare(sys.argv[1], sys.argv[2])[0].run_worker())
