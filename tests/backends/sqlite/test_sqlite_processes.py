"""Several processes on one file: each a real one."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from taskq_sqlite import connect

from taskq import App
from taskq.job import Ack, Job, JobRef
from taskq.testing import deferred

pytestmark = pytest.mark.anyio

PATIENCE = 60

OPENS = """
import asyncio, sys
from taskq_sqlite import connect
async def main():
    print("up", flush=True)
    sys.stdin.readline()
    async with connect(sys.argv[1]):
        pass
asyncio.run(main())
"""

CLAIMS = """
import asyncio, json, sys
from taskq.job import Ack
from taskq_sqlite import connect
async def main():
    got, settled = [], []
    async with connect(sys.argv[1]) as backend:
        print("up", flush=True)
        sys.stdin.readline()
        while taken := await backend.broker.fetch(["q"], 7, lease=60, wait=0):
            got += [delivery.job.id for delivery in taken]
            settled += await backend.broker.settle([Ack(delivery.receipt) for delivery in taken])
    print(json.dumps([got, settled]))
asyncio.run(main())
"""

ENQUEUES = """
import asyncio, sys
from taskq.job import Job
from taskq_sqlite import connect
async def main():
    async with connect(sys.argv[1]) as backend:
        for call in range(10_000):
            jobs = [Job(id=f"{call:05}-{n}", task="t", body=b"x" * 3000, queue="q", group=f"g{n % 3}",
                unique=f"{call}-{n}") for n in range(20)]
            await backend.broker.enqueue(jobs)
            print(call, flush=True)
asyncio.run(main())
"""

ORDERS = """
import asyncio, os, random, signal, sqlite3, sys
from taskq import App
path, first = sys.argv[1], int(sys.argv[2])
app = App("sqlite:///" + path)

@app.task(name="confirm")
async def confirm(order: int) -> None: ...

async def main():
    async with app:
        connection = sqlite3.connect(path)
        for order in range(first, 20):
            connection.execute("INSERT INTO orders VALUES (?)", (order,))
            await confirm.options(tx=connection).defer(order)
            print(order, flush=True)
            (end,) = random.Random(order).choices(["commit", "roll back", "die"], [4, 5, 1])
            if end == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            connection.commit() if end == "commit" else connection.rollback()
asyncio.run(main())
"""

TALKS = """
import asyncio, sys
from taskq.job import Ack, Job, JobRef
from taskq_sqlite import connect
async def main():
    async with connect(sys.argv[1]) as backend:
        print("up", flush=True)
        sys.stdin.readline()
        await backend.hints.publish("news", "hello")
        await backend.broker.enqueue([Job(id="a", task="t", body=b"", queue="q")])
        (delivery,) = await backend.broker.fetch(["answers"], 1, lease=60, wait=30)
        await backend.broker.settle([Ack(delivery.receipt, b"yes", 60)])
asyncio.run(main())
"""


def start(script: str, url: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, url]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def let_go(processes: "Sequence[subprocess.Popen[str]]") -> list[str]:
    """Start them all at the same moment, and give what each said in the end."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return said


async def test_processes_that_open_a_new_file_at_once_all_find_it_ready(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    let_go([start(OPENS, url) for _ in range(6)])
    async with connect(url) as backend:
        assert await backend.broker.fetch(["q"], 1, lease=1, wait=0) == []


async def test_processes_that_fetch_at_once_share_the_jobs_and_double_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    ids = [f"{n:04}" for n in range(1000)]
    async with connect(url) as backend:
        await backend.broker.enqueue([Job(id=name, task="t", body=b"{}", queue="q") for name in ids])
    said = [json.loads(line) for line in let_go([start(CLAIMS, url) for _ in range(4)])]
    assert Counter(name for got, _ in said for name in got) == Counter(ids)
    assert all(all(settled) for _, settled in said)


async def test_a_process_killed_amid_its_enqueues_leaves_each_call_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    for part in range(4):
        with start(ENQUEUES, f"sqlite:///{path}") as process:
            assert process.stdout is not None
            confirmed = [process.stdout.readline() for _ in range(3 + 5 * part)]
            process.kill()
            confirmed += process.stdout.readlines()
        last = int(confirmed[-1])
        async with connect(f"sqlite:///{path}") as backend:
            taken = await backend.broker.fetch(["q"], 100_000, lease=60, wait=0)
            assert len(taken) == 3  # one of each group
            with closing(sqlite3.connect(path)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                calls = Counter(name[:5] for (name,) in connection.execute("SELECT id FROM taskq_jobs"))
                connection.execute("DELETE FROM taskq_jobs")
                connection.commit()
        # What was confirmed is there, whole; of what was under way at most the one call that had been committed.
        assert set(calls.values()) == {20}
        assert last + 1 <= len(calls) <= last + 2


async def test_a_waiting_fetch_and_a_listener_hear_of_another_process(tmp_path: Path) -> None:
    async with connect(f"sqlite:///{tmp_path}/a.db") as backend:
        assert backend.hints is not None
        assert backend.results is not None
        process = start(TALKS, f"sqlite:///{tmp_path}/a.db")
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks, backend.hints.subscribe(["news"]) as hints:
                tasks.start_soon(to_thread.run_sync, let_go, [process])
                (delivery,) = await backend.broker.fetch(["q"], 1, lease=60, wait=PATIENCE)
                assert delivery.job.id == "a"
                await backend.broker.settle([Ack(delivery.receipt)])
                assert (await anext(hints)).data == "hello"
                question = Job(id="b", task="t", body=b"", queue="answers")
                await backend.broker.enqueue([question])
                assert await backend.results.outcome(JobRef("answers", "b"), wait=PATIENCE) == b"yes"


async def test_as_16_a_job_is_there_with_its_row_whoever_rolls_back_or_is_killed_before_the_commit(
    tmp_path: Path,
) -> None:
    file = tmp_path / "taskq.db"
    app = App(f"sqlite:///{file}")

    @app.task(name="confirm")
    async def confirm(order: int) -> None: ...

    async with app:
        with closing(sqlite3.connect(file)) as direct:
            direct.execute("CREATE TABLE orders (id integer)")
            first, killed = 0, 0
            while first < 20:
                ran = await anyio.run_process(
                    [sys.executable, "-c", ORDERS, file, str(first)], stderr=None, check=False
                )
                assert ran.returncode in (0, -signal.SIGKILL)
                killed += ran.returncode != 0
                first = int(ran.stdout.split()[-1]) + 1
            rows = [row for (row,) in direct.execute("SELECT id FROM orders ORDER BY id")]
        assert [job.arguments["order"] for job in await deferred(app)] == rows
    assert killed == 2
    assert len(rows) == 9
