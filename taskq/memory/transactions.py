"""The transactions part: steps are written down as they are answered, and carried out at the commit, all or none."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from taskq.broker import Broker, Traits
from taskq.errors import BrokerRejected, BrokerUnavailable, ConfigError
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, Lease, Settlement
from taskq.memory.broker import MemoryBroker
from taskq.memory.jobs import Jobs, deferring
from taskq.memory.row import Ref, Row


class _Draft:
    """What steps would be answered one after another, without carrying them out."""

    def __init__(self, jobs: Jobs, now: float) -> None:
        self._jobs = jobs
        self._now = now
        self._settled: set[str] = set()
        self._gone: set[Ref] = set()
        self._added: set[Ref] = set()
        self._keys: dict[Ref, Row | None] = {}

    def answer(self, step: Job | Settlement) -> Enqueued | bool:
        return self._enqueue(step) if isinstance(step, Job) else self._settle(step)

    def _enqueue(self, job: Job) -> Enqueued:
        if (refused := self._jobs.too_large(job)) is not None:
            return refused
        ref = (job.queue, job.id)
        if ref in self._added or (self._jobs.knows(ref) and ref not in self._gone):
            return Enqueued(job.id, False)
        if job.unique is not None:
            key = (job.queue, job.unique)
            holder = self._keys[key] if key in self._keys else self._jobs.holder(*key, self._now)
            if holder is not None:
                return deferring(job, holder)
            self._keys[key] = Row(job, 0, self._now)
        self._added.add(ref)
        return Enqueued(job.id, True)

    def _settle(self, settlement: Settlement) -> bool:
        row = self._jobs.leased_by(settlement.receipt)
        if row is None or settlement.receipt in self._settled:
            return False
        self._settled.add(settlement.receipt)
        if isinstance(settlement, Ack) and not self._jobs.dedup_window:
            self._gone.add(row.ref)
        key = row.job.unique
        if key is not None and self._jobs.holder(row.job.queue, key, self._now) is row:
            self._keys[row.job.queue, key] = _holder_after(row, settlement)
        return True


def _holder_after(row: Row, settlement: Settlement) -> Row | None:
    frees = isinstance(settlement, Ack) or (isinstance(settlement, DeadLetter) and row.job.unique_until != "success")
    if frees:
        return None
    after = Row(row.job, row.serial, row.due)
    after.cancelled = row.cancelled
    after.outcome = settlement.outcome if isinstance(settlement, DeadLetter) else None
    return after


def _gist(answer: Enqueued | bool) -> object:
    """What two answers must have in common to say the same: errors are never equal."""
    return answer if isinstance(answer, bool) else (answer.id, answer.added, type(answer.error))


class Transaction:
    """A transaction on a memory backend: give it to ``join``."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self._steps: list[tuple[Job | Settlement, Enqueued | bool]] = []
        self._over = False

    def take(self, steps: Sequence[Job | Settlement]) -> list[Enqueued | bool]:
        """Write the steps down and say what the commit will make of them."""
        if self._over:
            raise BrokerRejected("this transaction is over: begin another one")
        with self.broker.changing() as (jobs, now):
            draft = _Draft(jobs, now)
            for step, _ in self._steps:
                draft.answer(step)
            answers = [draft.answer(step) for step in steps]
        self._steps += zip(steps, answers, strict=True)
        return answers

    def commit(self) -> None:
        """Carry the steps out, if each would still be answered as it was."""
        self._over = True
        with self.broker.changing() as (jobs, now):
            draft = _Draft(jobs, now)
            if any(_gist(draft.answer(step)) != _gist(answer) for step, answer in self._steps):
                raise BrokerUnavailable("what this transaction stood on has changed: nothing of it was carried out")
            for step, _ in self._steps:
                if isinstance(step, Job):
                    jobs.enqueue(step, now)
                else:
                    jobs.settle(step, now)

    def roll_back(self) -> None:
        self._over = True


class _Joined:
    """A broker inside a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    @property
    def traits(self) -> Traits:
        return self._transaction.broker.traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        return [answer for answer in self._transaction.take(jobs) if isinstance(answer, Enqueued)]

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return [answer for answer in self._transaction.take(settlements) if isinstance(answer, bool)]

    async def fetch(  # the protocol names the arguments
        self,
        queues: Sequence[str],  # noqa: ARG002
        limit: int,  # noqa: ARG002
        *,
        lease: float,  # noqa: ARG002
        wait: float,  # noqa: ARG002
    ) -> list[Delivery]:
        raise BrokerRejected("a joined broker only enqueues and settles: fetch outside the transaction")

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:  # noqa: ARG002 as above
        raise BrokerRejected("a joined broker only enqueues and settles: extend outside the transaction")


class MemoryTransactions:
    """Transactions of a memory backend: a raise, or a lease that ended meanwhile, leaves no trace of one."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def join(self, connection: Any) -> Broker:
        if not isinstance(connection, Transaction) or connection.broker is not self._broker:
            raise ConfigError(f"{connection!r} is no transaction of this memory backend: use what begin() gives")
        return _Joined(connection)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Transaction]:
        transaction = Transaction(self._broker)
        try:
            yield transaction
        except BaseException:
            transaction.roll_back()
            raise
        transaction.commit()
