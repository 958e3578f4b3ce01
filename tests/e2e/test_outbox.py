"""Relays are killed while they hand over: what was committed runs once, what was rolled back never."""

import subprocess
import sys
from collections import Counter
from random import Random

import anyio
import anyio.to_thread
import asyncpg
import pytest

from taskq import App, current
from tests.e2e.harness import LONG
from tests.servers.process import Process
from tests.servers.tenants import queue_on
from tests.worker.moves import wait_until

pytestmark = pytest.mark.anyio

RELAY = """
import asyncio, sys
import taskq.outbox
from taskq import App

# What a killed relay had in hand comes back soon.
taskq.outbox.LEASE = 0.5
taskq.outbox._PART = 10
app = App(sys.argv[1], outbox=sys.argv[2])

async def main():
    async with app:
        print("open", flush=True)
        await app.relay()

asyncio.run(main())
"""


@pytest.mark.long
@pytest.mark.parametrize("url", ["redis", *(["cluster", "sqs"] if LONG else [])], indirect=True)
async def test_killed_relays_lose_and_double_nothing(url: str, postgres: Process) -> None:
    outbox = queue_on(postgres)
    app, other = App(url, outbox=outbox), App(url)
    random = Random(1)
    ran: Counter[str] = Counter()
    committed: set[str] = set()

    async def note_it() -> None:
        ran[current().id] += 1

    note = app.task(name="note")(note_it)
    # Its worker is no relay.
    other.task(name="note")(note_it)

    def relay() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", RELAY, url, outbox], stdout=subprocess.PIPE, text=True)

    async def kill_some() -> None:
        for kills in range(6):
            with relay() as process:
                assert process.stdout is not None
                await anyio.to_thread.run_sync(process.stdout.readline)
                if kills < 5:
                    await anyio.sleep(random.uniform(0, 0.3))
                else:
                    await wait_until(lambda: len(committed) == 150 and committed <= ran.keys())
                process.kill()

    async with app, other, other.working(), anyio.create_task_group() as group:
        group.start_soon(kill_some)
        connection = await asyncpg.connect(postgres.url)
        for n in range(300):
            transaction = connection.transaction()
            await transaction.start()
            job = await note.options(tx=connection).defer()
            if n % 2:
                await transaction.rollback()
            else:
                await transaction.commit()
                committed.add(job.id)
        await connection.close()
    assert len(committed) == 150
    assert ran == Counter(committed)
