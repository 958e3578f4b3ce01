"""The worker of story AS-28, with a task for each delivery guarantee: ``python -m tests.e2e.qos JOURNAL DOMAIN``."""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import anyio

from taskq import App, current
from taskq.testing.history import Journal
from tests.e2e.harness import QUEUE
from tests.e2e.worker import UNLUCKY, Reach, main, recorded

GUARANTEES = ("at_most_once", "at_least_once", "guarded")


def declare(app: App, journal: Journal, reach: Reach, domain: Path) -> None:
    """A task for each guarantee that the queue declares; ``guarded`` is the way to exactly one effect."""

    async def work(seconds: float) -> None:
        with recorded(journal):
            await anyio.sleep(seconds / 2)
            reach("mid-run")
            await anyio.sleep(seconds / 2)
            reach("effect done")

    app.task(name="at_least_once", queue=QUEUE, max_losses=UNLUCKY, idempotent=True)(work)
    if not bare_sqs(app.settings.url, app.settings.companion):
        app.task(name="at_most_once", queue=QUEUE, delivery="at_most_once")(work)

    @app.task(name="guarded", queue=QUEUE, max_losses=UNLUCKY, idempotent="guarded")
    async def guarded(seconds: float) -> None:
        with recorded(journal):
            await anyio.sleep(seconds / 2)
            reach("mid-run")
            await anyio.sleep(seconds / 2)
            charge(domain, current().idempotency_key)
            reach("effect done")


def bare_sqs(url: str, companion: str | None) -> bool:
    """The one that declares at least once alone."""
    return url.startswith("sqs") and not companion


def prepare(domain: Path) -> None:
    """Make the provider's database."""
    with closing(sqlite3.connect(domain)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE keys (key TEXT PRIMARY KEY)")
        database.execute("CREATE TABLE charges (key TEXT)")


def charge(domain: Path, key: str) -> None:
    """As a provider does it who knows the keys that he has seen; what he has done twice he would show twice."""
    with closing(sqlite3.connect(domain, timeout=30.0)) as database, database:
        database.execute("PRAGMA synchronous = OFF")
        if database.execute("INSERT OR IGNORE INTO keys VALUES (?)", (key,)).rowcount:
            database.execute("INSERT INTO charges VALUES (?)", (key,))


def charges(domain: Path) -> dict[str, int]:
    """How often each key was charged."""
    with closing(sqlite3.connect(domain)) as database:
        return dict(database.execute("SELECT key, count(*) FROM charges GROUP BY key").fetchall())


if __name__ == "__main__":
    asyncio.run(main(Journal(Path(sys.argv[1])), Path(sys.argv[2]), declare))
