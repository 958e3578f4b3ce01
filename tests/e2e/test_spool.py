"""A program goes on deferring while its broker is dead, and is killed itself: every job that was taken arrives once."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from taskq.connect import connect
from taskq.job import Ack
from tests.servers import postgres as postgresql
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.tenants import queue_on
from tests.worker.moves import SOON

pytestmark = pytest.mark.anyio

PROGRAM = """
import asyncio, sys
from taskq import App

url, spool, first, many = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
app = App(url, spool=spool)

@app.task
async def note(n: int) -> None: ...

async def main():
    async with app:
        for n in range(first, first + many):
            await note.options(id=f"job-{n:06}", group="one").defer(n)
            print(n, flush=True)
            await asyncio.sleep(0.002)
        print("done", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    """A server that the test may kill."""
    if request.param == "redis":
        (tmp_path / "redis").mkdir()
        with valkey.single(tmp_path / "redis", aof="always") as process:
            yield process
    else:
        with postgresql.postgres() as process:
            yield process


class Program:
    """A program that defers jobs, and says which were taken."""

    def __init__(self, directory: Path, url: str, first: int, many: int) -> None:
        arguments = [sys.executable, "-c", PROGRAM, url, str(directory / "spool.db"), str(first), str(many)]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.taken: list[int] = []

    def take(self, until: int | str) -> None:
        """Read what it says up to this."""
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


async def test_what_was_deferred_while_the_broker_was_dead_survives_the_program_and_arrives_once_in_order(
    server: Process, tmp_path: Path
) -> None:
    url = queue_on(server)
    async with connect(url):
        pass
    first = Program(tmp_path, url, 0, 100_000)
    first.take(until=100)
    server.kill()
    first.take(until=400)
    first.kill()
    taken = len(first.taken) + 2
    server.start()
    # It defers nothing of its own.
    second = Program(tmp_path, url, taken, 0)
    second.take(until="done")
    arrived: list[str] = []
    async with connect(url) as backend:
        admin = backend.admin
        assert admin is not None
        with anyio.fail_after(SOON):
            while (await admin.stats(["default"]))[0].ready < taken:  # noqa: ASYNC110 - servers can only be asked
                await anyio.sleep(0.05)
        while page := await backend.broker.fetch(["default"], 1, lease=60, wait=0):
            arrived += [delivery.job.id for delivery in page]
            await backend.broker.settle([Ack(delivery.receipt) for delivery in page])
    second.kill()
    assert len(arrived) == len(set(arrived))
    assert set(arrived) >= {f"job-{n:06}" for n in range(taken)}
    assert all(earlier < later for earlier, later in pairwise(arrived))
