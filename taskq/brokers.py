"""Several brokers in one app: each queue is on one of them, and whatever is done to it goes there."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import lru_cache, partial
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from taskq.broker import Admin, Backend, Broker, Hints, QueueStats, Record, Results, Revival, Traits, Transactions
from taskq.errors import BrokerUnavailable, ConfigError, MissingCapability
from taskq.job import Enqueued, Job, JobRef, State
from taskq.pools import DEFAULT, PoolSettings, home_of

T = TypeVar("T")
R = TypeVar("R")

Home = Callable[[str], str]
"""The name of the broker that a queue is on."""


class Site(Struct, frozen=True):
    """One of an app's brokers."""

    name: str
    own: Backend
    """The broker by itself."""
    backend: Backend
    """As its jobs see it: what they enqueue goes where its queue is, and what is remembered beside jobs is in the
    Store of the default broker."""


class Sites:
    """All of an app's brokers; the default one by itself is not wrapped into anything."""

    def __init__(self, backends: Mapping[str, Backend], pools: Mapping[str, PoolSettings]) -> None:
        # Queues may be as many as tenants.
        self.home: Home = lru_cache(4096)(partial(home_of, pools=pools))
        self.default = Site(DEFAULT, backends[DEFAULT], backends[DEFAULT])
        self.by_name: Mapping[str, Site] = {DEFAULT: self.default}
        if len(backends) > 1:
            self.by_name = {name: self._site(name, backends) for name in backends}
            self.default = self.by_name[DEFAULT]

    @property
    def several(self) -> bool:
        """Whether there is more than the default one."""
        return len(self.by_name) > 1

    def at(self, queue: str) -> Site:
        """The one that a queue is on."""
        return self.by_name[self.home(queue)]

    def _site(self, name: str, backends: Mapping[str, Backend]) -> Site:
        own, default = backends[name], backends[DEFAULT]
        results = None
        if own.results is not None:
            kept = {other: backend.results for other, backend in backends.items() if backend.results is not None}
            results = EveryResults(kept, self.home)
        admins = {other: backend.admin for other, backend in backends.items() if backend.admin is not None}
        transactions = None if own.transactions is None else HomeTransactions(own.transactions, name, self.home)
        backend = replace(
            own,
            broker=everywhere(own.broker, {other: backends[other].broker for other in backends}, self.home),
            results=results,
            hints=self._hints(name, backends),
            admin=EveryAdmin(admins, self.home) if admins else None,
            store=default.store,
            open_store=default.open_store,
            discard_and_settle=None,
            transactions=transactions,
        )
        return Site(name, own, backend)

    def _hints(self, name: str, backends: Mapping[str, Backend]) -> Hints | None:
        own, default = backends[name].hints, backends[DEFAULT].hints
        if own is None or default is None:
            # What is said of all brokers is said by way of the default one.
            return None
        others = [backend.hints for backend in backends.values() if backend.hints is not None]
        return EveryHints(own, others) if name == DEFAULT else own


@asynccontextmanager
async def all_open(
    opening: Mapping[str, AbstractAsyncContextManager[Backend]], pools: Mapping[str, PoolSettings]
) -> AsyncGenerator[Sites]:
    """The brokers of these names, open for as long as the context."""
    async with AsyncExitStack() as stack:
        backends = {name: await stack.enter_async_context(context) for name, context in opening.items()}
        yield Sites(backends, pools)


class Sending:
    """A broker with another enqueue; everything else is the broker's own."""

    def __init__(
        self, broker: Broker, traits: Traits, enqueue: Callable[[Sequence[Job]], Awaitable[Sequence[Enqueued]]]
    ) -> None:
        self._traits = traits
        self._enqueue = enqueue
        self.fetch = broker.fetch
        self.settle = broker.settle
        self.extend = broker.extend

    @property
    def traits(self) -> Traits:
        """What is promised."""
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        """As it was given."""
        return await self._enqueue(jobs)


def everywhere(own: Broker, brokers: Mapping[str, Broker], home: Home) -> Broker:
    """A broker that enqueues each job where its queue is, in as many calls as that takes."""

    async def enqueue(jobs: Sequence[Job]) -> Sequence[Enqueued]:
        async def at(name: str, part: Sequence[Job]) -> Sequence[Enqueued]:
            size = brokers[name].traits.max_batch
            answers = [await brokers[name].enqueue(part[first : first + size]) for first in range(0, len(part), size)]
            return [answer for each in answers for answer in each]

        return await _apart(jobs, lambda job: home(job.queue), at)

    window = min(broker.traits.dedup_window for broker in brokers.values())
    return Sending(own, replace(own.traits, dedup_window=window, pipelined=False), enqueue)


class HomeTransactions:
    """Transactions in which nothing is deferred to another broker: it would not be part of them."""

    def __init__(self, own: Transactions, name: str, home: Home) -> None:
        self._own = own
        self._name = name
        self._home = home

    def join(self, connection: Any) -> Broker:
        """As the broker's own. Its enqueue raises ConfigError for a queue that is on another one."""
        broker = self._own.join(connection)

        async def enqueue(jobs: Sequence[Job]) -> Sequence[Enqueued]:
            for job in jobs:
                home = self._home(job.queue)
                if home != self._name:
                    raise ConfigError(
                        f"task {job.task}: queue {job.queue!r} is on broker {home!r}, and this transaction is of the "
                        f"database of {self._name!r}: defer outside of it, or give the app an outbox"
                    )
            return await broker.enqueue(jobs)

        return Sending(broker, broker.traits, enqueue)

    def begin(self) -> AbstractAsyncContextManager[Any]:
        """As the broker's own."""
        return self._own.begin()


class EveryHints:
    """Hears what its own broker says, and speaks on all."""

    def __init__(self, own: Hints, every: Sequence[Hints]) -> None:
        self._every = every
        self.subscribe = own.subscribe

    async def publish(self, channel: str, data: str) -> None:
        """Tell whoever listens now, wherever a broker is in reach."""
        for hints in self._every:
            with suppress(BrokerUnavailable):
                await hints.publish(channel, data)


class EveryResults:
    """Outcomes, on whichever broker a queue is."""

    def __init__(self, results: Mapping[str, Results], home: Home) -> None:
        self._results = results
        self._home = home

    async def outcome(self, ref: JobRef, *, wait: float) -> bytes | None:
        """The outcome of an ended job; None when there is none, or its broker keeps none."""
        results = self._results.get(self._home(ref.queue))
        return None if results is None else await results.outcome(ref, wait=wait)


class EveryAdmin:
    """What an operator may see and do, on whichever broker a queue is."""

    def __init__(self, admins: Mapping[str, Admin], home: Home) -> None:
        self._admins = admins
        self._home = home

    async def stats(self, queues: Sequence[str] = ()) -> Sequence[QueueStats]:
        """Counts of the named queues, or of every queue of every broker, by name."""
        if queues:
            named = _by_home(queues, self._home)
            found = [await self._at(name).stats([queues[at] for at in places]) for name, places in named.items()]
        else:
            found = [await admin.stats() for admin in self._admins.values()]
        return sorted([queue for queues in found for queue in queues], key=lambda queue: queue.queue)

    async def lookup(self, ref: JobRef) -> Record | None:
        """A live job or dead letter."""
        return await self._at(self._home(ref.queue)).lookup(ref)

    async def find(self, id: str) -> Record | None:
        """The same by a bare id; looks on every broker."""
        for admin in self._admins.values():
            record = await admin.find(id)
            if record is not None:
                return record
        return None

    async def list_jobs(self, queue: str, state: State, *, after: str | None, limit: int) -> Sequence[Record]:
        """Up to ``limit`` jobs of one state by rising id."""
        return await self._at(self._home(queue)).list_jobs(queue, state, after=after, limit=limit)

    async def cancel(self, refs: Sequence[JobRef]) -> Sequence[bool]:
        """Ask for live jobs to be cancelled."""
        return await _apart(refs, self._of, lambda name, part: self._at(name).cancel(part))

    async def revive(self, refs: Sequence[JobRef]) -> Sequence[Revival]:
        """Make dead letters ready again."""
        return await _apart(refs, self._of, lambda name, part: self._at(name).revive(part))

    async def purge(self, refs: Sequence[JobRef]) -> Sequence[bool]:
        """Remove dead letters for good."""
        return await _apart(refs, self._of, lambda name, part: self._at(name).purge(part))

    def _of(self, ref: JobRef) -> str:
        return self._home(ref.queue)

    def _at(self, name: str) -> Admin:
        if name not in self._admins:
            raise MissingCapability(f"broker {name!r} has no administration: pair it with a companion store")
        return self._admins[name]


def _by_home(items: Sequence[T], home: Callable[[T], str]) -> Mapping[str, Sequence[int]]:
    """The places of the items of each broker."""
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(home(item), []).append(place)
    return places


async def _apart(
    items: Sequence[T], home: Callable[[T], str], call: Callable[[str, Sequence[T]], Awaitable[Sequence[R]]]
) -> list[R]:
    """What a call for the items of each broker answers, in the order of the items."""
    answers: dict[int, R] = {}
    for name, places in _by_home(items, home).items():
        found = await call(name, [items[place] for place in places])
        answers.update(zip(places, found, strict=True))
    return [answers[place] for place in range(len(items))]
