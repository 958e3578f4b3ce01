"""A program goes on deferring while its broker is dead, and is killed itself: every job that was taken arrives once.

AS-14 and AS-15.
"""

import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Self

import anyio
import pytest
from anyio import to_thread
from msgspec import Struct

from taskq import App, Collect
from taskq.job import Ack
from tests.backends.sqs.deployment import Tenant
from tests.e2e.harness import LONG
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.proxy import proxied
from tests.servers.tenants import queue_on, queue_on_cluster
from tests.worker.moves import SOON

pytestmark = [pytest.mark.anyio, pytest.mark.long]

PAUSE = 0.01 if LONG else 0.002
"""Seconds between two defers."""
BEFORE, SPOOLED = (100, 1000) if LONG else (20, 60)
"""Jobs that are deferred before the broker dies, and while it is dead and the program lives."""
MEMBERS = BEFORE + SPOOLED // 2
"""Of them so many are followed by a member of a batch."""

PROGRAM = """
import asyncio, sys
from taskq import App, Collect

url, spool, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
first, many, members = map(int, sys.argv[4:])
app = App(url, spool=spool)

@app.task
async def note(n: int) -> None: ...

@app.task(name="count", queue="counts", collect=Collect(size=20, wait=1))
async def count(numbers: list[int]) -> None: ...

async def main():
    async with app:
        async with app.batch("all") as batch:
            for n in range(max(many, members)):
                if n < many:
                    number = first + n
                    await note.options(id=f"job-{number:06}", group=str(number % 3)).defer(number)
                    await count.defer(number)
                if n < members:
                    await batch.add([note.call(n)])
                print(n, flush=True)
                await asyncio.sleep(pause)
        print("done", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Server(Struct, frozen=True):
    """A queue whose server the test may kill."""

    url: str
    kill: Callable[[], object]
    start: Callable[[], object]


@pytest.fixture(params=["own_redis", "own_postgres", *(["sqlite", "cluster"] if LONG else []), "sqs"])
async def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Server]:
    if request.param == "sqlite":
        # A file does not die: somebody locks it.
        url = f"sqlite:///{tmp_path}/taskq.db?busy_timeout=0.2"
        with closing(sqlite3.connect(tmp_path / "taskq.db", check_same_thread=False, isolation_level=None)) as other:
            yield Server(url, lambda: other.execute("BEGIN IMMEDIATE"), lambda: other.execute("COMMIT"))
        return
    if request.param == "cluster":
        (tmp_path / "nodes").mkdir()
        with valkey.cluster(tmp_path / "nodes", aof="always") as nodes:
            yield Server(queue_on_cluster(nodes), *(partial(do_all, nodes, do) for do in (Process.kill, Process.start)))
        return
    process: Process = request.getfixturevalue(request.param)
    if request.param == "sqs":
        # The emulator would forget everything: to its callers it is dead when nobody listens.
        monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db")
        async with proxied(process.port) as (proxy, port):
            url = Tenant(process, f"http://127.0.0.1:{port}").url
            yield Server(url, partial(proxy.switch, 1), partial(proxy.switch, process.port))
    else:
        yield Server(queue_on(process), process.kill, process.start)


def do_all(nodes: Sequence[Process], do: Callable[[Process], None]) -> None:
    for node in nodes:
        do(node)


class Program:
    """A program that defers jobs and makes a batch, and says which were taken; it outlives no block."""

    def __init__(self, directory: Path, url: str, first: int, many: int, members: int = 0) -> None:
        numbers = map(str, (PAUSE, first, many, members))
        arguments = [sys.executable, "-c", PROGRAM, url, str(directory / "spool.db"), *numbers]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.taken: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        with self._process:
            self._process.kill()

    async def take(self, until: int | str) -> None:
        """Read what it says up to this."""
        await to_thread.run_sync(self._take, until)

    def _take(self, until: int | str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == str(until):
                break
            self.taken.append(int(line))
        else:
            assert self._process.stderr is not None
            raise AssertionError(self._process.stderr.read())

    def kill(self) -> None:
        """SIGKILL; what it had said is taken, too."""
        self._process.kill()
        rest, _ = self._process.communicate()
        self.taken += [int(line) for line in rest.split() if line.isdecimal()]


async def handed_over(spool: Path) -> None:
    """Return when the spool is empty."""
    with closing(sqlite3.connect(spool)) as file, anyio.fail_after(3 * SOON):
        while file.execute("SELECT count(*) FROM taskq_spool").fetchone()[0]:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.05)


async def arrived(url: str, many: int) -> list[str]:
    """The ids of all jobs, in the order in which they come, when there are so many."""
    ids: list[str] = []
    async with App(url) as app:
        with anyio.fail_after(3 * SOON):
            while (await app.admin.stats(["default"]))[0].ready < many:  # noqa: ASYNC110 - servers can only be asked
                await anyio.sleep(0.05)
        broker = app.backend.broker
        while page := await broker.fetch(["default"], 100, lease=60, wait=SOON if len(ids) < many else 0.2):
            ids += [delivery.job.id for delivery in page]
            await broker.settle([Ack(delivery.receipt) for delivery in page])
    assert len(ids) == len(set(ids))
    jobs = [one for one in ids if one.startswith("job-")]
    for key in range(3):
        assert all(earlier < later for earlier, later in pairwise(one for one in jobs if int(one[4:]) % 3 == key))
    return ids


async def collected(url: str) -> list[int]:
    """What the runs of the collecting task are given, one after another."""
    app, found = App(url), list[int]()

    @app.task(name="count", queue="counts", collect=Collect())
    async def count(numbers: list[int]) -> None:
        assert len(numbers) <= 20
        found.extend(numbers)

    with anyio.fail_after(3 * SOON):
        await app.run_worker(queues=["counts"], until="empty")
    return found


async def test_as_15_what_was_deferred_while_the_broker_was_dead_survives_the_program_and_arrives_once_in_order(
    server: Server, tmp_path: Path
) -> None:
    url = server.url
    async with App(url):
        pass
    with Program(tmp_path, url, 0, 100_000, MEMBERS) as first:
        await first.take(until=BEFORE)
        server.kill()
        await first.take(until=BEFORE + SPOOLED)
        first.kill()
    taken = len(first.taken) + 2
    server.start()
    # It defers nothing of its own, but makes the batch from the beginning, and to its end.
    with Program(tmp_path, url, taken, 0, MEMBERS) as second:
        await second.take(until="done")
        await handed_over(tmp_path / "spool.db")
        ids = await arrived(url, taken + MEMBERS)
        items = await collected(url)
    assert len(items) == len({*items})
    assert {*items} >= {*range(taken)}
    assert {*ids} >= {f"job-{n:06}" for n in range(taken)} | {f"all.{n}.0" for n in range(MEMBERS)}
    async with App(url) as app:
        status = await app.batch("all").status()
    assert status is not None
    assert (status.total, status.pending, status.sealed) == (MEMBERS, MEMBERS, True)


@pytest.mark.skipif(not LONG, reason="5,000 jobs at 100 a second: make test-long")
@pytest.mark.timeout(600)
async def test_as_14_a_program_does_not_feel_that_its_broker_is_dead_for_half_a_minute(
    server: Server, tmp_path: Path
) -> None:
    url = server.url
    async with App(url):
        pass
    with Program(tmp_path, url, 0, 5000) as program:
        await program.take(until=1000)
        server.kill()
        await program.take(until=4000)
        server.start()
        # A defer that had failed would have ended it.
        await program.take(until="done")
        ids = await arrived(url, 5000)
    assert sorted(ids) == [f"job-{n:06}" for n in range(5000)]
