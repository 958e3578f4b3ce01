"""Deferring inside a transaction of a database that is not the broker, and handing over what was committed.

The outbox is a queue of taskq in the caller's own database: the caller's transaction puts a job there, whole, under its
own id, in the body of another. The relay leases it, enqueues it where it belongs, and acks it. Killed anywhere in
between it leaves a lease that ends.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from time import time
from typing import Any

import anyio
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskq.broker import Backend, Broker, Traits, Transactions
from taskq.connect import connect
from taskq.errors import BrokerRejected, BrokerUnavailable, ConfigError, TaskqError
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, Lease, Nack, Settlement
from taskq.schedule import LIFE

_log = logging.getLogger("taskq")

OUTBOX = "taskq-outbox"
"""The queue of jobs on their way, and the name of their task."""
LEASE = 30.0
"""Seconds after which what a dead relay had in hand is handed over by another one."""
_PART = 500
_WAIT, _BACK_OFF = 1.0, 0.5


class _Parcel(Struct, frozen=True):
    job: Job
    at: float
    """When it was put here."""


class OutboxTransactions:
    """What a broker lacks: a transaction of this database decides whether its jobs are ever enqueued."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def join(self, connection: Any) -> Broker:
        """A broker on the caller's connection. Raises ConfigError for one that is not of the outbox's database."""
        return _Packing(self._transactions.join(connection))

    def begin(self) -> Any:
        """As the database's own."""
        return self._transactions.begin()


class _Packing:
    """Enqueues into the outbox what belongs elsewhere."""

    def __init__(self, outbox: Broker) -> None:
        self._outbox = outbox

    @property
    def traits(self) -> Traits:
        return self._outbox.traits

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        now = time()
        return await self._outbox.enqueue([_packed(job, now) for job in jobs])

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        return await self._outbox.fetch(queues, limit, lease=lease, wait=wait)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return await self._outbox.settle(settlements)

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await self._outbox.extend(receipts, lease)


def _packed(job: Job, now: float) -> Job:
    return Job(id=job.id, task=OUTBOX, queue=OUTBOX, body=msgspec.msgpack.encode(_Parcel(job, now)))


class Relay:
    """Hands over what was committed. Any number of them may run."""

    def __init__(self, outbox: Broker, backend: Backend) -> None:
        self._outbox = outbox
        self._broker = backend.broker
        # A relay that dies before its ack makes the next one enqueue again what may have ended by then.
        self._claim = backend.store is not None and backend.broker.traits.dedup_window < 2 * LEASE

    async def run(self) -> None:
        """Until cancelled. Raises nothing of what either side does."""
        while True:
            try:
                deliveries = await self._outbox.fetch([OUTBOX], _PART, lease=LEASE, wait=_WAIT)
                for part in _parts(deliveries, self._broker.traits.max_batch):
                    await self._outbox.settle(await self._hand_over(part))
            except BrokerUnavailable as error:
                _log.debug("the outbox cannot be handed over yet: %s", error)
                await anyio.sleep(_BACK_OFF)

    async def _hand_over(self, deliveries: Sequence[Delivery]) -> Sequence[Settlement]:
        """Enqueue, and say what to do with each delivery."""
        try:
            answers = await self._broker.enqueue([self._unpacked(delivery) for delivery in deliveries])
        except BrokerRejected as error:
            if len(deliveries) == 1:
                return [_refused(deliveries[0], error)]
            return [settlement for each in deliveries for settlement in await self._hand_over([each])]
        return [_settlement(delivery, answer.error) for delivery, answer in zip(deliveries, answers, strict=True)]

    def _unpacked(self, delivery: Delivery) -> Job:
        parcel = msgspec.msgpack.decode(delivery.job.body, type=_Parcel)
        job = parcel.job.aged(time() - parcel.at)
        return replace(job, headers={**job.headers, LIFE: str(delivery.fence)}) if self._claim else job


def _parts(deliveries: Sequence[Delivery], size: int) -> list[Sequence[Delivery]]:
    return [deliveries[at : at + size] for at in range(0, len(deliveries), size)]


def _settlement(delivery: Delivery, error: TaskqError | None) -> Settlement:
    """What to do with what was handed over."""
    if error is None:
        return Ack(delivery.receipt)
    if isinstance(error, BrokerUnavailable):
        return Nack(delivery.receipt, _BACK_OFF, counted=False)
    return _refused(delivery, error)


def _refused(delivery: Delivery, error: Exception) -> Settlement:
    """A dead letter of the outbox: a person has to look at it."""
    _log.error("job %s was refused by the broker, and is a dead letter of the outbox: %s", delivery.job.id, error)
    outcome = msgspec.json.encode({"end": "failed", "reason": f"{type(error).__name__}: {error}"})
    return DeadLetter(delivery.receipt, outcome)


@asynccontextmanager
async def open_outbox(url: str, backend: Backend) -> AsyncGenerator[tuple[Transactions, Relay]]:
    """Transactions of the database behind ``url``, and the relay to a backend; raises ConfigError without any."""
    async with connect(url) as outbox:
        if outbox.transactions is None:
            scheme = url.partition("://")[0]
            raise ConfigError(
                f"outbox: {scheme}:// takes part in no transactions: name the PostgreSQL or SQLite database that your "
                "program writes to"
            )
        yield OutboxTransactions(outbox.transactions), Relay(outbox.broker, backend)
