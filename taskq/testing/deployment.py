"""What a contract test stands on: a storage that can be opened many times, and the few moves all tests share."""

# ruff: noqa: S101 (a contract is made of asserts)

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import pytest
from msgspec import Struct
from msgspec.structs import replace

from taskq.broker import Backend, Broker
from taskq.job import Ack, Delivery, Job, JobRef

SHORT = 0.3
"""A lease, delay or time to live that a test waits out, in seconds."""
LONG = 60.0
"""One that no test waits out."""
SOON = 15.0
"""How long anything may take before a test gives up."""

T = TypeVar("T")


class Deployment(Struct, frozen=True, kw_only=True):
    """One storage, empty at the start of a test or shared by tests that use queues and keys of their own."""

    open: Callable[[], AbstractAsyncContextManager[Backend]]
    """Connects; two at a time stand for two processes on the same storage."""
    residue: Callable[[], Awaitable[Collection[str]]]
    """The names of all that is stored now, besides what an empty storage has, and counts."""
    restart: Callable[[], Awaitable[None]] | None = None
    """Ends the storage the hard way and starts it again. No connection is open meanwhile."""
    sever: Callable[[Backend], AbstractAsyncContextManager[None]] | None = None
    """Within the context every call of this backend meets a driver error."""
    driver_errors: tuple[type[BaseException], ...] = ()
    """What the driver raises: the cause of a severed call is one of them."""


def a_job(queue: str, name: str = "a", **fields: Any) -> Job:
    """A job whose id is its own among all tests."""
    return replace(Job(id=f"{queue}-{name}", task="test.task", body=b"{}", queue=queue), **fields)


def ref(job: Job) -> JobRef:
    """Where this job is to be found."""
    return JobRef(job.queue, job.id)


def names(deliveries: Sequence[Delivery]) -> list[str]:
    """The jobs' names as given to :func:`a_job`, in order."""
    return [delivery.job.id.removeprefix(f"{delivery.job.queue}-") for delivery in deliveries]


async def add(broker: Broker, *jobs: Job) -> None:
    """Enqueue jobs that must all be added."""
    answers = await broker.enqueue(jobs)
    assert [(answer.id, answer.added, answer.error) for answer in answers] == [(job.id, True, None) for job in jobs]


async def take(broker: Broker, queue: str, count: int = 1, *, lease: float = LONG) -> list[Delivery]:
    """Fetch until there are ``count`` deliveries; a broker may hand them out in portions."""
    taken: list[Delivery] = []
    with anyio.fail_after(SOON):
        while len(taken) < count:
            taken += await broker.fetch([queue], count - len(taken), lease=lease, wait=1.0)
    return taken


async def take_one(broker: Broker, queue: str, *, lease: float = LONG) -> Delivery:
    """The one job that is due, leased."""
    return (await take(broker, queue, lease=lease))[0]


async def nothing(broker: Broker, queue: str) -> bool:
    """No job of the queue can be fetched now."""
    return not await broker.fetch([queue], 10, lease=LONG, wait=0)


async def ack(broker: Broker, *deliveries: Delivery) -> None:
    """Settle deliveries whose receipts must be good."""
    assert list(await broker.settle([Ack(delivery.receipt) for delivery in deliveries])) == [True] * len(deliveries)


async def wait_until(check: Callable[[], Awaitable[T]]) -> T:
    """Ask again and again until the answer is true, and give it."""
    with anyio.fail_after(SOON):
        while not (answer := await check()):  # noqa: ASYNC110 another process's doings can only be asked after
            await anyio.sleep(0.02)
    return answer


async def pass_lease(broker: Broker, queue: str) -> None:
    """Return when a lease of :data:`SHORT` seconds that began before this call is over, by the backend's clock."""
    witness = f"{queue}-witness"
    # An id of its own each time: a broker may know one for a while after it ended.
    await add(broker, a_job(witness, uuid4().hex))
    await take(broker, witness, lease=SHORT)
    await ack(broker, await take_one(broker, witness))


async def all_waiting(backend: Backend) -> None:
    """Return when every call begun before is under way and waits."""
    await anyio.wait_all_tasks_blocked()
    # A call may still be on its way to the server; a few round trips on the same connection come after it.
    for _ in range(3):
        await backend.broker.fetch(["all-waiting"], 1, lease=SHORT, wait=0)
    await anyio.wait_all_tasks_blocked()


def needs(broker: Broker, trait: str) -> None:
    """Skip a test of a promise that this broker does not make."""
    if not getattr(broker.traits, trait):
        pytest.skip(f"this broker does not promise to be {trait}")


def part(value: T | None, name: str) -> T:
    """A part of the backend, or a skip."""
    if value is None:
        pytest.skip(f"this backend has no {name}")
    return value
