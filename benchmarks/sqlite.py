"""How near is the worker on SQLite to its own statements, and how far from huey's SQLite storage? No-op jobs.

``python -m benchmarks.sqlite [?OPTIONS]`` prints the jobs a second of taskq beside huey.
"""

import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
from taskq_sqlite.fetch import fetch
from taskq_sqlite.queries import load
from taskq_sqlite.settle import settle

from benchmarks.measure import Comparison, compare, in_new_process
from taskq import App
from taskq.job import Ack

JOBS, BATCH = 20_000, 100


def make_app(url: str, ran: list[int]) -> App:
    """One task that does nothing but be counted."""
    app = App(url)

    @app.task(name="noop")
    async def noop(number: int) -> None:
        ran.append(number)

    return app


async def enqueued(app: App) -> None:
    """All jobs waiting."""
    noop = app.find_task("noop")
    await app.defer_many(noop.call(number) for number in range(JOBS))


async def taskq_worker(url: str, ran: list[int], slots: int = BATCH) -> float:
    """Seconds of a worker."""
    app = make_app(url, ran)
    async with app:
        await enqueued(app)
        began = time.perf_counter()
        await app.run_worker(until="idle", slots=slots)
        return time.perf_counter() - began


async def bare_loop(url: str, ran: list[int]) -> float:
    """Seconds of the same statements, batches as large as the slots, one asyncio task a job, and nothing else."""
    app = make_app(url, ran)
    async with app:
        await enqueued(app)
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    cursor, sql, loop = connection.cursor(), load(), asyncio.get_running_loop()

    async def noop(number: int) -> None:
        ran.append(number)

    began = time.perf_counter()
    while True:
        cursor.execute("BEGIN IMMEDIATE")
        taken = fetch(cursor, sql, ["default"], BATCH, lease=30.0, now=time.time())
        cursor.execute("COMMIT")
        if not taken:
            break
        await asyncio.gather(*[loop.create_task(noop(number)) for number in range(len(ran), len(ran) + len(taken))])
        cursor.execute("BEGIN IMMEDIATE")
        settle(cursor, sql, [Ack(delivery.receipt) for delivery in taken], now=time.time(), dedup_window=0.0)
        cursor.execute("COMMIT")
    seconds = time.perf_counter() - began
    connection.close()
    return seconds


def rate(
    side: Callable[[str, list[int]], Coroutine[Any, Any, float]], options: str = "", *, on_uvloop: bool = False
) -> float:
    """Jobs a second."""
    ran: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        jobs = partial(side, f"sqlite:///{folder}/taskq.db{options}", ran)
        seconds = anyio.run(jobs, backend_options={"use_uvloop": on_uvloop})
    assert sorted(ran) == list(range(JOBS)), "a job was lost or ran twice"
    return JOBS / seconds


def beside_huey(rounds: int, durability: str, options: str, fsync: str) -> Comparison:
    """The same durability on both sides, each at its better setting: slots and loop here, threads there.

    Each in a process of its own: in this one the garbage collector has the whole suite to look through.
    """
    return compare(
        f"worker on SQLite (1,000 slots, uvloop) beside huey's SQLite storage, no-op jobs, {durability}",
        "jobs/s",
        {
            "taskq": partial(in_new_process, "benchmarks.sqlite", options),
            "huey, 1 thread": partial(in_new_process, "benchmarks.huey_worker", "1", fsync),
            "huey, 4 threads": partial(in_new_process, "benchmarks.huey_worker", "4", fsync),
        },
        rounds=rounds,
        bar="at least 10 ×",
        met=lambda ratio: ratio >= 10.0,
    )


def run(rounds: int) -> list[Comparison]:
    """At least half of the bare loop, at least ten times huey."""
    return [
        compare(
            "worker on SQLite, no-op jobs, 100 slots",
            "jobs/s",
            {"taskq": partial(rate, taskq_worker), "same statements, bare": partial(rate, bare_loop)},
            rounds=rounds,
            bar="at least 0.5 ×",
            met=lambda ratio: ratio >= 0.5,
        ),
        beside_huey(rounds, "every commit on disk", "", "fsync"),
        beside_huey(rounds, "no waiting for the disk", "?synchronous=off", ""),
    ]


if __name__ == "__main__":
    print(rate(partial(taskq_worker, slots=1000), *sys.argv[1:], on_uvloop=True))
