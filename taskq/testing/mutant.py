"""How a backend is broken on purpose, and how a clause of the contract is run against it."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import pytest
from msgspec import Struct
from msgspec.structs import replace

from taskq.broker import Backend, Broker, Traits
from taskq.errors import TaskqError
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement
from taskq.store import Entry, Store
from taskq.testing.deployment import Deployment, part

PATIENCE = 2.0
"""Seconds after which a clause that hangs on a mutant has failed; far more than it needs on a sound backend."""


Change = Callable[[Backend], Backend]


class Mutant(Struct, frozen=True, kw_only=True):
    """A way to break a backend, and the test that must notice."""

    name: str
    test: str
    change: Change

    @property
    def clause(self) -> str:
        """``C-E1`` for ``test_c_e1_…``; the part's name for the tests of a part without clauses."""
        return clause_of(self.test)


def clause_of(test: str) -> str:
    """The clause that a test's name begins with, or the first word of one that names none."""
    _, first, second, *_ = test.split("_")
    return f"C-{second.upper()}" if first == "c" else first


Enqueue = Callable[[Broker, Sequence[Job]], Awaitable[Sequence[Enqueued]]]
Fetch = Callable[[Broker, Sequence[str], int, float, float], Awaitable[Sequence[Delivery]]]
Settle = Callable[[Broker, Sequence[Settlement]], Awaitable[Sequence[bool]]]
Extend = Callable[[Broker, Sequence[str], float], Awaitable[Sequence[Lease]]]


class TwistedBroker:
    """A broker with some of its verbs exchanged; each exchanged one is handed the real broker."""

    def __init__(
        self,
        real: Broker,
        *,
        traits: Traits | None = None,
        enqueue: Enqueue | None = None,
        fetch: Fetch | None = None,
        settle: Settle | None = None,
        extend: Extend | None = None,
    ) -> None:
        self._real = real
        self._traits = traits
        self._enqueue = enqueue
        self._fetch = fetch
        self._settle = settle
        self._extend = extend

    @property
    def traits(self) -> Traits:
        return self._traits or self._real.traits

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        return await (self._enqueue(self._real, jobs) if self._enqueue else self._real.enqueue(jobs))

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        if self._fetch:
            return await self._fetch(self._real, queues, limit, lease, wait)
        return await self._real.fetch(queues, limit, lease=lease, wait=wait)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return await (self._settle(self._real, settlements) if self._settle else self._real.settle(settlements))

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await (self._extend(self._real, receipts, lease) if self._extend else self._real.extend(receipts, lease))


def verbs(
    *,
    enqueue: Enqueue | None = None,
    fetch: Fetch | None = None,
    settle: Settle | None = None,
    extend: Extend | None = None,
) -> Change:
    """These verbs are exchanged."""

    def change(backend: Backend) -> Backend:
        broker = TwistedBroker(backend.broker, enqueue=enqueue, fetch=fetch, settle=settle, extend=extend)
        return replace(backend, broker=broker)

    return change


def jobs(change: Callable[[Job], Job]) -> Change:
    """Every job is changed on its way in."""

    async def enqueue(real: Broker, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        return await real.enqueue([change(job) for job in jobs])

    return verbs(enqueue=enqueue)


def deliveries(change: Callable[[Delivery], Delivery]) -> Change:
    """Every delivery is changed on its way out."""

    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return [change(delivery) for delivery in await real.fetch(queues, limit, lease=lease, wait=wait)]

    return verbs(fetch=fetch)


def settlements(change: Callable[[Settlement], Settlement]) -> Change:
    """Every settlement is changed on its way in."""

    async def settle(real: Broker, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return await real.settle([change(settlement) for settlement in settlements])

    return verbs(settle=settle)


Get = Callable[[Store, str], Awaitable[Entry]]
Swap = Callable[[Store, str, bytes | None, bytes | None, float | None], Awaitable[bool]]
Add = Callable[[Store, str, Sequence[str], float | None, int | None], Awaitable[bool]]
DiscardMembers = Callable[[Store, str, Sequence[str]], Awaitable[int]]


class TwistedStore:
    """A store with some of its verbs exchanged."""

    def __init__(
        self,
        real: Store,
        *,
        get: Get | None = None,
        swap: Swap | None = None,
        add: Add | None = None,
        discard: DiscardMembers | None = None,
    ) -> None:
        self._real = real
        self._get = get
        self._swap = swap
        self._add = add
        self._discard = discard

    async def get(self, key: str) -> Entry:
        return await (self._get(self._real, key) if self._get else self._real.get(key))

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        if self._swap:
            return await self._swap(self._real, key, old, new, ttl)
        return await self._real.swap(key, old, new, ttl=ttl)

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        if self._add:
            return await self._add(self._real, key, members, ttl, ceiling)
        return await self._real.add(key, members, ttl=ttl, ceiling=ceiling)

    async def discard(self, key: str, members: Sequence[str]) -> int:
        return await (self._discard(self._real, key, members) if self._discard else self._real.discard(key, members))


class Twisted:
    """Any other part: the methods given are its own, all others the real part's."""

    def __init__(self, real: object, **methods: Callable[..., Any]) -> None:
        self._real = real
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def mutate(deployment: Deployment, mutant: Mutant) -> Deployment:
    """The deployment, with every connection broken as the mutant says."""
    real_of: dict[int, Backend] = {}

    @asynccontextmanager
    async def open_mutated() -> AsyncGenerator[Backend]:
        async with deployment.open() as real:
            mutated = mutant.change(real)
            real_of[id(mutated)] = real
            yield mutated

    def sever(backend: Backend) -> AbstractAsyncContextManager[None]:
        return part(deployment.sever, "way to be severed")(real_of[id(backend)])

    return replace(deployment, open=open_mutated, sever=sever if deployment.sever else None)


async def run_clause(contract: type[Any], test: str, deployment: Deployment) -> None:
    """Run one test of a contract class on a deployment, outside of pytest's fixtures."""
    method = getattr(contract(), test)
    async with AsyncExitStack() as stack:
        given: dict[str, Any] = {
            "deployment": deployment,
            "queue": f"q{uuid4().hex[:12]}",
            "key": f"k{uuid4().hex[:12]}",
        }
        wanted = inspect.signature(method).parameters
        for name in ("backend", "other", "store", "rival"):
            if name in wanted:
                backend = await stack.enter_async_context(deployment.open())
                given[name] = part(backend.store, "store") if name in ("store", "rival") else backend
        await method(**{name: given[name] for name in wanted})


async def verdict(contract: type[Any], mutant: Mutant, deployment: Deployment) -> str | None:
    """What the mutant's clause has to say against it; None when it notices nothing."""
    try:
        with anyio.fail_after(PATIENCE):
            await run_clause(contract, mutant.test, mutate(deployment, mutant))
    except (Exception, pytest.fail.Exception) as error:
        failures = _leaves(error)
        # OSError stands for a driver's. Anything else is a fault of the mutant itself, and proves nothing.
        if all(
            isinstance(failure, AssertionError | TaskqError | OSError | pytest.fail.Exception) for failure in failures
        ):
            return f"{type(failures[0]).__name__}: {failures[0]}".splitlines()[0]
        raise
    return None


def _leaves(error: BaseException) -> list[BaseException]:
    match error:
        case BaseExceptionGroup(exceptions=inner):
            return [leaf for each in inner for leaf in _leaves(each)]
        case _:
            return [error]
