"""Where it runs is configuration: ``TASKQ_URL=redis://…``, or ``TASKQ_URL=sqs://…`` with ``TASKQ_COMPANION=…``.

``await view(post, reader)`` for every page that is shown; ``taskq worker examples.views.app:app`` counts.
"""

import os
import sqlite3
from contextlib import closing

from taskq import App

app = App()
GATHERING = float(os.environ.get("VIEWS_GATHERING", "300"))
"""Seconds from the first view of a post to its count."""
DATABASE = os.environ.get("VIEWS_DATABASE", "views.db")

SCHEMA = """
CREATE TABLE seen (post, reader, PRIMARY KEY (post, reader));
CREATE TABLE counts (post PRIMARY KEY, readers, updates);
"""


@app.task(name="views.aggregate", unique=True, unique_until="start", idempotent=True)
async def aggregate(post: int) -> None:
    """Write how many have read a post: the same, however often it is done."""
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute(
            "INSERT INTO counts SELECT ?1, count(*), 1 FROM seen WHERE post = ?1"
            " ON CONFLICT DO UPDATE SET readers = excluded.readers, updates = updates + 1",
            (post,),
        )


async def view(post: int, reader: int) -> None:
    """A page was shown: note who saw it, and have the post counted, if that is not on its way."""
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (post, reader))
    await aggregate.options(delay=GATHERING).defer(post)
