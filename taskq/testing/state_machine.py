"""Random histories of the verbs, each answer compared with a model of plain lists.

The same seed gives the same history on every backend. Nothing here waits: a job is due now or far away, and a lease
ends when the history says so, by extending it to nothing.
"""

# ruff: noqa: S101 (a contract is made of asserts)

from collections.abc import Sequence
from random import Random
from uuid import uuid4

import pytest

from taskq.broker import Admin, Backend
from taskq.errors import Conflict
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, Lease, Nack, Settlement, State
from taskq.testing.deployment import LONG, Deployment, a_job, ack, part, ref

STEPS = 150
SEEDS = range(8)
GROUPS = {"one": 1, "two": 2}
"""Each group with its limit."""
TENANTS = {0: "x", 1: "y"}
"""Of every fourth job."""


class Mirror:
    """What the model knows of one job."""

    def __init__(self, job: Job, step: int) -> None:
        self.job = job
        self.due = step if job.delay == 0 else None
        """The step at which it became due; None while it is far from it."""
        self.attempt = 1
        self.losses = 0
        self.fence = 0
        self.receipt: str | None = None
        self.lapsed = False
        self.placed = False
        self.cancelled = False
        self.dead = False
        self.holds_key = job.unique is not None

    @property
    def takes_turns(self) -> bool:
        """It waits for its tenant's turn, which another of the tenant's keeps that has come before."""
        return self.job.tenant is not None and self.job.group is None and not self.cancelled

    @property
    def leased(self) -> bool:
        return self.receipt is not None and not self.lapsed

    @property
    def state(self) -> State:
        if self.dead:
            return "dead"
        if self.leased:
            return "leased"
        return "later" if self.due is None else "ready"


class Model:
    """A queue as a list of jobs, and the rules of the contract, one method a verb."""

    def __init__(self) -> None:
        self.jobs: list[Mirror] = []
        self.void: list[str] = []
        """Receipts that must not count any more."""

    def by_id(self, id: str) -> Mirror | None:
        return next((mirror for mirror in self.jobs if mirror.job.id == id), None)

    def by_receipt(self, receipt: str) -> Mirror | None:
        return next((mirror for mirror in self.jobs if mirror.receipt == receipt), None)

    def holder(self, key: str | None) -> Mirror | None:
        return next((mirror for mirror in self.jobs if mirror.holds_key and mirror.job.unique == key), None)

    def may_be_leased(self, mirror: Mirror) -> bool:
        if mirror.state != "ready":
            return False
        if mirror.job.group is None or mirror.cancelled or mirror.placed:
            return True
        taken = sum(other.placed for other in self.jobs if other.job.group == mirror.job.group)
        return taken < mirror.job.group_limit

    def enqueue(self, job: Job, answer: Enqueued, step: int) -> None:
        holder = self.holder(job.unique) if job.unique else None
        if self.by_id(job.id) is not None:
            assert (answer.id, answer.added, answer.error) == (job.id, False, None)
        elif holder is None:
            assert (answer.id, answer.added, answer.error) == (job.id, True, None)
            self.jobs.append(Mirror(job, step))
        else:
            refused = job.on_conflict == "raise" or (job.on_conflict == "replace" and (holder.leased or holder.dead))
            assert (answer.id, answer.added, isinstance(answer.error, Conflict)) == (holder.job.id, False, refused)
            if job.on_conflict == "replace" and not refused:
                kept = holder.job
                holder.job = a_job(
                    job.queue,
                    id=kept.id,
                    priority=job.priority,
                    body=job.body,
                    group=kept.group,
                    group_limit=kept.group_limit,
                    tenant=kept.tenant,
                    unique=kept.unique,
                    unique_until=kept.unique_until,
                )
                holder.due = step if job.delay == 0 else None

    def fetch(self, limit: int, deliveries: Sequence[Delivery]) -> None:
        assert len(deliveries) <= limit
        for delivery in deliveries:
            eligible = [mirror for mirror in self.jobs if self.may_be_leased(mirror)]
            mirror = self.by_id(delivery.job.id)
            assert mirror in eligible
            assert mirror is not None
            assert mirror.due is not None
            assert mirror.job.priority == max(other.job.priority for other in eligible)
            alike = [other for other in eligible if other.job.priority == mirror.job.priority]
            in_order = [] if mirror.takes_turns else [other for other in alike if not other.takes_turns]
            assert not [other for other in in_order if other.due is not None and other.due < mirror.due]
            self._deliver(mirror, delivery)
        if len(deliveries) < limit:
            assert not [mirror for mirror in self.jobs if self.may_be_leased(mirror)]

    def settle(self, settlement: Settlement, answer: bool, step: int) -> None:
        mirror = self.by_receipt(settlement.receipt)
        assert answer == (mirror is not None)
        if mirror is None:
            return
        self.void.append(settlement.receipt)
        mirror.receipt, mirror.lapsed = None, False
        if isinstance(settlement, Nack):
            mirror.attempt += settlement.counted
            mirror.due = step if settlement.after == 0 else None
            mirror.placed = mirror.placed and mirror.job.group_limit == 1
            return
        mirror.placed = False
        if isinstance(settlement, Ack):
            self.jobs.remove(mirror)
        else:
            mirror.dead = True
            mirror.holds_key = mirror.holds_key and mirror.job.unique_until == "success"

    def extend(self, receipt: str, answer: Lease) -> None:
        mirror = self.by_receipt(receipt)
        if mirror is None:
            assert answer is Lease.LOST
        else:
            assert answer is (Lease.CANCELLED if mirror.cancelled else Lease.HELD)

    def lapse(self, mirror: Mirror, step: int) -> None:
        mirror.lapsed, mirror.due = True, step
        mirror.placed = mirror.placed and mirror.job.group_limit == 1

    def cancel(self, id: str, answer: bool, step: int) -> None:
        mirror = self.by_id(id)
        assert answer == (mirror is not None and not mirror.dead)
        if mirror is not None and answer:
            mirror.cancelled = True
            if mirror.due is None:
                mirror.due = step

    def revive(self, id: str, answer: str, step: int) -> None:
        mirror = self.by_id(id)
        if mirror is None or not mirror.dead:
            assert answer == "unknown"
        elif mirror.job.unique and self.holder(mirror.job.unique) not in (None, mirror):
            assert answer == "conflict"
        else:
            assert answer == "revived"
            mirror.dead, mirror.cancelled, mirror.due = False, False, step
            mirror.attempt, mirror.losses = 1, 0
            mirror.holds_key = mirror.job.unique is not None

    def purge(self, id: str, answer: bool) -> None:
        mirror = self.by_id(id)
        assert answer == (mirror is not None and mirror.dead)
        if mirror is not None and mirror.dead:
            self.jobs.remove(mirror)

    def _deliver(self, mirror: Mirror, delivery: Delivery) -> None:
        if mirror.receipt is not None:
            self.void.append(mirror.receipt)
            mirror.losses += 1
        assert delivery.receipt not in self.void
        assert (delivery.attempt, delivery.losses) == (mirror.attempt, mirror.losses)
        assert (delivery.job.body, delivery.cancelled) == (mirror.job.body, mirror.cancelled)
        assert delivery.fence > mirror.fence
        mirror.fence, mirror.receipt, mirror.lapsed = delivery.fence, delivery.receipt, False
        mirror.placed = mirror.placed or (mirror.job.group is not None and not mirror.cancelled)


class History:
    """One seed's history on a backend, beside the model."""

    def __init__(self, seed: int, queue: str, connections: Sequence[Backend], admin: Admin) -> None:
        self._random = Random(seed)  # noqa: S311 a seed, not a secret
        self._queue = queue
        self._connections = connections
        self._admin = admin
        self._model = Model()
        self._step = 0
        self.log: list[str] = []
        """Every step so far: what to read when one fails."""

    async def run(self) -> None:
        steps = [self._enqueue] * 4 + [self._fetch] * 4 + [self._settle] * 4
        steps += [self._extend, self._lapse, self._cancel, self._revive, self._purge]
        for self._step in range(STEPS):
            await self._random.choice(steps)()
            await self._compare_counts()
        await self._empty()

    async def _enqueue(self) -> None:
        jobs: list[Job] = []
        for _ in range(self._random.randint(1, 3)):
            jobs.append(self._a_job())
            self.log.append(f"{self._step} enqueue {jobs[-1]}")
        # One call a job: what replaces what is then as certain on the backend as in the model.
        for job in jobs:
            for answer in await self._connection().broker.enqueue([job]):
                self._model.enqueue(job, answer, self._step)

    async def _fetch(self) -> None:
        limit = self._random.randint(1, 4)
        self.log.append(f"{self._step} fetch {limit}")
        taken = await self._connection().broker.fetch([self._queue], limit, lease=LONG, wait=0)
        self._model.fetch(limit, taken)

    async def _settle(self) -> None:
        settlements: list[Settlement] = []
        for receipt in self._some_receipts(lapsed=True):
            kind = self._random.randrange(6)
            if kind < 3:
                settlements.append(Ack(receipt))
            elif kind < 5:
                after = self._random.choice([0.0, LONG])
                settlements.append(Nack(receipt, after, counted=self._random.random() < 0.5))
            else:
                settlements.append(DeadLetter(receipt, b"dead"))
        self.log.append(f"{self._step} settle {settlements}")
        answers = await self._connection().broker.settle(settlements)
        for settlement, answer in zip(settlements, answers, strict=True):
            self._model.settle(settlement, answer, self._step)

    async def _extend(self) -> None:
        receipts = self._some_receipts(lapsed=False)
        self.log.append(f"{self._step} extend {receipts}")
        for receipt, answer in zip(receipts, await self._connection().broker.extend(receipts, LONG), strict=True):
            self._model.extend(receipt, answer)

    async def _lapse(self) -> None:
        leased = [mirror for mirror in self._model.jobs if mirror.leased]
        for mirror in self._random.sample(leased, min(2, len(leased))):
            assert mirror.receipt is not None
            self.log.append(f"{self._step} lapse {mirror.job.id}")
            for answer in await self._connection().broker.extend([mirror.receipt], 0):
                self._model.extend(mirror.receipt, answer)
            self._model.lapse(mirror, self._step)

    async def _cancel(self) -> None:
        wanted = self._an_id()
        self.log.append(f"{self._step} cancel {wanted}")
        for answer in await self._admin.cancel([ref(a_job(self._queue, id=wanted))]):
            self._model.cancel(wanted, answer, self._step)

    async def _revive(self) -> None:
        wanted = self._an_id(dead=True)
        self.log.append(f"{self._step} revive {wanted}")
        for answer in await self._admin.revive([ref(a_job(self._queue, id=wanted))]):
            self._model.revive(wanted, answer, self._step)

    async def _purge(self) -> None:
        wanted = self._an_id(dead=True)
        self.log.append(f"{self._step} purge {wanted}")
        for answer in await self._admin.purge([ref(a_job(self._queue, id=wanted))]):
            self._model.purge(wanted, answer)

    async def _compare_counts(self) -> None:
        (stats,) = await self._admin.stats([self._queue])
        states = [mirror.state for mirror in self._model.jobs]
        counted = (stats.later, stats.ready, stats.leased, stats.dead)
        assert counted == tuple(states.count(state) for state in ("later", "ready", "leased", "dead"))

    async def _empty(self) -> None:
        """Bring every job to its end."""
        self._step += 1
        self.log.append(f"{self._step} empty")
        for mirror in list(self._model.jobs):
            await self._admin.purge([ref(mirror.job)])
            if mirror.receipt is not None:
                await self._connections[0].broker.settle([Ack(mirror.receipt)])
            await self._admin.cancel([ref(mirror.job)])
        while taken := await self._connection().broker.fetch([self._queue], 10, lease=LONG, wait=0):
            await ack(self._connection().broker, *taken)

    def _connection(self) -> Backend:
        return self._random.choice(self._connections)

    def _a_job(self) -> Job:
        choose = self._random.choice
        group = choose([None, None, "one", "two"])
        unique = choose([None, None, "k", "l"])
        on_conflict = choose(["return", "raise", "replace"])
        holder = self._model.holder(unique) if unique else None
        if holder is not None and (holder.lapsed or holder.cancelled):
            # Whether such a holder still takes a new call is the backend's choice.
            on_conflict = "return"
        number = self._random.randrange(40)
        return a_job(
            self._queue,
            id=f"{self._queue}-{number}",
            tenant=TENANTS.get(number % 4),
            body=self._random.randbytes(4),
            priority=choose([0, 0, 1, 2]),
            delay=choose([0.0, 0.0, 0.0, LONG]),
            group=group,
            group_limit=GROUPS[group] if group else 1,
            unique=unique,
            unique_until=choose(["end", "success"]),
            on_conflict=on_conflict,
        )

    def _some_receipts(self, *, lapsed: bool) -> list[str]:
        """A few good receipts and a void one. Whether a lapsed lease can be extended is the backend's choice."""
        good = [m.receipt for m in self._model.jobs if m.receipt is not None and (lapsed or not m.lapsed)]
        void = self._model.void[-20:]
        return self._random.sample(good, min(3, len(good))) + self._random.sample(void, min(1, len(void)))

    def _an_id(self, *, dead: bool = False) -> str:
        known = [mirror.job.id for mirror in self._model.jobs if mirror.dead or not dead]
        return self._random.choice([*known, f"{self._queue}-unknown"])


@pytest.mark.anyio
class StateMachine:
    """Used as :class:`~taskq.testing.broker_contract.BrokerContract` is; needs every trait and an admin part."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def deployment(self) -> Deployment:
        """The one thing to override: where the backend under test lives."""
        raise NotImplementedError("override the fixture `deployment`")

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_a_random_history_agrees_with_the_model(self, deployment: Deployment, seed: int) -> None:
        async with deployment.open() as backend, deployment.open() as other:
            before = set(await deployment.residue())
            history = History(seed, f"q{uuid4().hex[:12]}", [backend, other], part(backend.admin, "admin"))
            try:
                await history.run()
                assert set(await deployment.residue()) <= before
            except AssertionError:
                print(f"seed {seed}:", *history.log, sep="\n")  # noqa: T201 what a reader of the failure needs
                raise
