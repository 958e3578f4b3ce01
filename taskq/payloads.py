"""Calls too large for the broker: the body is kept elsewhere, as in a cloakroom, and the job carries the ticket.

A backend with a cloakroom is one whose broker takes more. Nobody above it knows, and a job that fits passes by.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from time import time
from typing import Any, Protocol
from uuid import uuid4

from msgspec.structs import replace

from taskq.broker import Backend, Broker, Traits, Transactions
from taskq.connect import connect, payload_opener
from taskq.errors import BrokerError, BrokerUnavailable, ConfigError, DecodeError, PartlySettled
from taskq.flow.members import all_of
from taskq.job import Ack, Delivery, Enqueued, Job, Lease, Nack, Settlement
from taskq.store import Store

TICKET = "taskq-payload"
"""The header that names the body."""
LEFT_BEHIND = b"(kept elsewhere)"
"""The body of a job with a ticket: no call, so that a worker without the cloakroom runs nothing."""
_AGAIN = 5.0
"""Seconds after which a body that cannot be had now is asked for again."""

_log = logging.getLogger("taskq")


class Payloads(Protocol):
    """Where large bodies are kept. What it raises of :class:`~taskq.errors.BrokerUnavailable` is tried again."""

    async def put(self, name: str, body: bytes, *, keep: float) -> None:
        """Keep a body under a name that nothing had before; after ``keep`` seconds it may be gone."""
        ...

    async def get(self, name: str) -> bytes | None:
        """The body; None when it is gone."""
        ...

    async def delete(self, name: str) -> None:
        """Keep it no longer, if it is there."""
        ...


class StoredPayloads:
    """Bodies in a backend's Store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, name: str, body: bytes, *, keep: float) -> None:
        await self._store.swap(_key(name), None, body, ttl=keep)

    async def get(self, name: str) -> bytes | None:
        return (await self._store.get(_key(name))).value

    async def delete(self, name: str) -> None:
        body = await self.get(name)
        if body is not None:
            await self._store.swap(_key(name), body, None)


def _key(name: str) -> str:
    return f"payload:{name}"


class Cloakroom:
    """Hands bodies in when jobs are enqueued, out when they are fetched, and away when they have ended."""

    def __init__(self, payloads: Payloads, *, above: int, limit: int, keep: float) -> None:
        self._payloads = payloads
        self._above = above
        """Bytes that the broker takes itself."""
        self.limit = limit
        """Bytes that are taken here."""
        self._keep = keep
        self._held: dict[str, str] = {}
        """The names of what deliveries hold, by receipt."""

    async def check_in(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """The jobs as the broker takes them."""
        if all(len(job.body) <= self._above for job in jobs):
            return jobs
        return await all_of(self._ticketed(job) for job in jobs)

    async def take_back(self, jobs: Sequence[Job], sent: Sequence[Job], answers: Sequence[Enqueued]) -> None:
        """Nobody will ask for what was not added."""
        unused = [
            checked.headers[TICKET]
            for job, checked, answer in zip(jobs, sent, answers, strict=True)
            if checked is not job and not answer.added and not _may_need(job, answer)
        ]
        await self.throw_away(unused)

    async def check_out(self, deliveries: Sequence[Delivery], broker: Broker) -> Sequence[Delivery]:
        """The deliveries as they were enqueued; those whose body cannot be had now go back."""
        if not any(TICKET in delivery.job.headers for delivery in deliveries):
            return deliveries
        checked = await all_of(self._checked_out(delivery, broker) for delivery in deliveries)
        return [delivery for delivery in checked if delivery is not None]

    def returned(self, settlements: Sequence[Settlement], answers: Sequence[bool]) -> Sequence[str]:
        """The names that nobody needs any more. A dead letter may be revived, and keeps its body."""
        if not self._held:
            return ()
        names = [self._held.pop(settlement.receipt, None) for settlement in settlements]
        return [
            name
            for name, settlement, settled in zip(names, settlements, answers, strict=True)
            if name is not None and settled and isinstance(settlement, Ack)
        ]

    async def throw_away(self, names: Sequence[str]) -> None:
        """What cannot be deleted now lapses by itself."""
        for name in names:
            with suppress(BrokerError):
                await self._payloads.delete(name)

    async def _ticketed(self, job: Job) -> Job:
        if not self._above < len(job.body) <= self.limit:
            # It fits, or the broker is to refuse it.
            return job
        # A name of its own for each try: a job of the same id may have been there before, with another body.
        name = f"{job.id}.{uuid4().hex}"
        until_due = job.delay if job.run_at is None else max(0.0, job.run_at - time())
        await self._payloads.put(name, job.body, keep=self._keep + until_due)
        return replace(job, body=LEFT_BEHIND, headers={**job.headers, TICKET: name})

    async def _checked_out(self, delivery: Delivery, broker: Broker) -> Delivery | None:
        name = delivery.job.headers.get(TICKET)
        if name is None:
            return delivery
        try:
            body = await self._payloads.get(name)
        except BrokerError as error:
            _log.warning("job %s waits: its body cannot be had now: %s", delivery.job.id, error)
            await broker.settle([Nack(delivery.receipt, _AGAIN, counted=False)])
            return None
        if body is None:
            return delivery
        self._held[delivery.receipt] = name
        headers = {key: text for key, text in delivery.job.headers.items() if key != TICKET}
        return replace(delivery, job=replace(delivery.job, body=body, headers=headers))


def _may_need(job: Job, answer: Enqueued) -> bool:
    """Whether a waiting job took over this one's call, or nobody knows if this one was added."""
    if isinstance(answer.error, BrokerUnavailable):
        return True
    return job.on_conflict == "replace" and answer.error is None and answer.id != job.id


def not_here(job: Job) -> DecodeError | None:
    """Why a job with a ticket cannot be run; None for one without."""
    if TICKET not in job.headers:
        return None
    return DecodeError(
        f"its call was too large for the broker and is kept elsewhere as {job.headers[TICKET]!r}: it has lapsed, or "
        "this worker was not told by payloads= where that is; revive the job when it is there"
    )


Away = Callable[[Sequence[str]], Awaitable[None]]


class CloakroomBroker:
    """A broker that takes larger jobs than it can hold."""

    def __init__(self, broker: Broker, room: Cloakroom, away: Away) -> None:
        self._broker = broker
        self._room = room
        self._away = away
        """What becomes of bodies whose jobs have ended."""
        self._traits = replace(broker.traits, max_size=max(room.limit, broker.traits.max_size), pipelined=False)

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        sent = await self._room.check_in(jobs)
        answers = await self._broker.enqueue(sent)
        if sent is not jobs:
            await self._room.take_back(jobs, sent, answers)
        return answers

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        deliveries = await self._broker.fetch(queues, limit, lease=lease, wait=wait)
        return await self._room.check_out(deliveries, self._broker)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        try:
            answers = await self._broker.settle(settlements)
        except PartlySettled as partly:
            known = [at for at, answer in enumerate(partly.answers) if answer is not None]
            settled = [partly.answers[at] is True for at in known]
            await self._away(self._room.returned([settlements[at] for at in known], settled))
            raise
        await self._away(self._room.returned(settlements, answers))
        return answers

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await self._broker.extend(receipts, lease)


class CloakroomTransactions:
    """Bodies of jobs that end in a transaction go when that has committed."""

    def __init__(self, transactions: Transactions, room: Cloakroom) -> None:
        self._transactions = transactions
        self._room = room
        self._ended: dict[int, list[str]] = {}
        """By the transaction's connection."""

    def join(self, connection: Any) -> Broker:
        broker = self._transactions.join(connection)
        return CloakroomBroker(broker, self._room, partial(self._note, connection))

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Any]:
        async with self._transactions.begin() as connection:
            ended: list[str] = []
            self._ended[id(connection)] = ended
            try:
                yield connection
            finally:
                del self._ended[id(connection)]
        await self._room.throw_away(ended)

    async def _note(self, connection: Any, names: Sequence[str]) -> None:
        # In a caller's own transaction nobody tells how it ends: its bodies lapse.
        self._ended.get(id(connection), []).extend(names)


@asynccontextmanager
async def with_payloads(backend: Backend, url: str, *, limit: int, keep: float) -> AsyncGenerator[Backend]:
    """The backend with a cloakroom behind ``url``. Raises ConfigError for one that can keep nothing."""
    async with _opened(url) as payloads:
        room = Cloakroom(payloads, above=backend.broker.traits.max_size, limit=limit, keep=keep)
        yield checked(backend, room)


def checked(backend: Backend, room: Cloakroom) -> Backend:
    """The backend with this cloakroom."""
    transactions = backend.transactions
    return replace(
        backend,
        broker=CloakroomBroker(backend.broker, room, room.throw_away),
        transactions=None if transactions is None else CloakroomTransactions(transactions, room),
    )


@asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[Payloads]:
    if "://" not in url:
        # Not repeated: it may hold a password.
        raise ConfigError("the setting payloads is no URL; write something like redis://host/1")
    opener: Callable[[str], AbstractAsyncContextManager[Payloads]] | None = payload_opener(url)
    if opener is not None:
        async with opener(url) as payloads:
            yield payloads
        return
    async with connect(url) as backend:
        if backend.store is None:
            scheme = url.partition("://")[0]
            raise ConfigError(f"payloads: {scheme}:// has no store: name a Redis, PostgreSQL or SQLite database")
        yield StoredPayloads(backend.store)
