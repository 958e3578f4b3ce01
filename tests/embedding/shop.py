"""A shop whose jobs run in the web process; each of its neighbours puts it behind one framework.

The environment says how: ``TASKQ_URL`` and the other settings, ``SHOP_THREAD`` for a thread of the worker's own.
"""

import os
import threading
import time
from pathlib import Path

import anyio

from taskq import App
from taskq.asgi import TaskqLifespan

jobs = App()
lifespan = TaskqLifespan(jobs, thread="SHOP_THREAD" in os.environ)


@jobs.task(name="where", idempotent=True)
async def where() -> str:
    return place()


@jobs.task(name="touch", idempotent=True)
async def touch(file: str) -> None:
    await anyio.Path(file).touch()


@jobs.task(name="wait_for", idempotent=True, keep=60)
async def wait_for(started: str, gate: str) -> None:
    await anyio.Path(started).touch()
    while not await anyio.Path(gate).exists():  # noqa: ASYNC110 - another process opens it
        await anyio.sleep(0.01)


@jobs.task(name="wait_in_thread", idempotent=True, keep=60)
def wait_in_thread(started: str, gate: str) -> None:
    Path(started).touch()
    while not Path(gate).exists():
        time.sleep(0.01)


def place() -> str:
    """Process and thread."""
    return f"{os.getpid()} {threading.get_ident()}"


async def places() -> str:
    """Where this request is, and where its job ran."""
    job = await where.defer()
    return f"{place()} {await job.result(30)}"
