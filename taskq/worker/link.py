"""One broker as a worker meets it: what its pools there share, and what the broker tells about all of them at once."""

from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Protocol

import anyio
from msgspec.structs import replace

from taskq.brokers import Site
from taskq.errors import MissingCapability
from taskq.events import Events, LeaseLost
from taskq.flow.given import given
from taskq.flow.members import all_of
from taskq.job import Lease
from taskq.limits.keeper import Keeper
from taskq.outcome import Cancelled, Decision, Interrupted, Lost, Outcome, Poisonous, Returned
from taskq.worker.admission import Admission
from taskq.worker.claims import outclaimed
from taskq.worker.contact import Contact
from taskq.worker.control import HINTED_POLL, POLL, Control
from taskq.worker.effects import Effects
from taskq.worker.leases import Leases
from taskq.worker.lineup import Lineup, Lookout
from taskq.worker.options import WorkerOptions
from taskq.worker.run import Run, job_fields
from taskq.worker.slots import Slots
from taskq.worker.undertaker import Forget, undertaker_of
from taskq.worker.witness import Witness, last_seen

HELD_LONG = "it was held as long as the broker holds a job"
OUT_OF_CONTACT = "the broker did not answer while its lease ran out"


class Holder(Protocol):
    """A pool, as the link of its broker sees it."""

    held: dict[str, Run]
    """By receipt: everything fetched and not yet settled."""
    slots: Slots
    lineup: Lineup

    @property
    def unsettled(self) -> Collection[str]:
        """The receipts that the broker is not being told of now."""
        ...

    def notice(self) -> None:
        """Something changed: look again at what to fetch."""
        ...


class Link:
    """Contact with the broker, the leases held there, and what operators ask there."""

    def __init__(
        self,
        site: Site,
        events: Events,
        options: WorkerOptions,
        *,
        can_go_on: Callable[[], bool],
        worker: str,
    ) -> None:
        backend, own = site.backend, site.own
        if options.until != "asked" and own.admin is None:
            raise MissingCapability("a worker that ends by itself has to count what is left: this backend has no Admin")
        self.backend = backend
        self.own = own
        """The same without a way to other brokers."""
        self.contact = Contact(events, site.name)
        self.effects = Effects(backend, options.lease)
        self._undertaker = undertaker_of(own, events, options.dead)
        self.keeper = None if backend.store is None else Keeper(backend.store, options.lease, events)
        self.admission = None if self.keeper is None else Admission(self.keeper)
        self.pools: list[Holder] = []
        self._witness = None if backend.store is None else Witness(backend.store, worker, self._running)
        self._events = events
        self._on_lost_contact = options.on_lost_contact
        self.leases = Leases(
            backend.extender,
            self.held,
            options.lease,
            obey=self._obey,
            out_of_contact=self._out_of_contact,
            hand_over=lambda runs: self._cancel(runs, Interrupted(reason=HELD_LONG)),
            ceiling=backend.broker.traits.max_lease,
            can_go_on=can_go_on,
            open_store=backend.open_store,
            keeper=self.keeper,
            witness=self._witness,
        )
        self.control = Control(
            replace(own, store=backend.store),
            cancel=self.leases.extend_now,
            changed=self._notice,
            holds=lambda job: any(run.delivery.job.id == job for run in self.held()),
            poll=inf if not options.threads else POLL if backend.hints is None else HINTED_POLL,
        )
        self._lookout = None if own.admin is None else Lookout(own.admin, options.known, self._has_globs, self._found)
        self._threads = options.threads

    @property
    def forget(self) -> Forget:
        """What follows when ends are settled."""
        forget = self.effects.forget
        return forget if self._undertaker is None else self._undertaker.following(forget)

    def held(self) -> Sequence[Run]:
        """Everything its pools hold; any thread may ask."""
        return [run for pool in self.pools for run in list(pool.held.values())]

    async def look(self) -> None:
        """Find out, before the first fetch, what is paused, and which queues there are."""
        await self.control.look()
        await self.look_out()

    async def look_out(self) -> None:
        """Find out which queues there are, where a pool has globs."""
        if self._lookout is not None:
            await self._lookout.look()

    def look_again(self) -> None:
        """Its pools may have other globs than before."""
        if self._lookout is not None:
            self._lookout.again()

    async def run(self) -> None:
        """Listen and look until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.control.run)
            if self._undertaker is not None:
                group.start_soon(self._undertaker.run)
            if self._lookout is not None and self._threads:
                group.start_soon(self._lookout.run)

    def _has_globs(self) -> bool:
        return any(pool.lineup.selection.globs for pool in self.pools)

    async def recall(self, run: Run) -> Decision | None:
        """What was decided about this job before its handler could begin here."""
        store = self.backend.store
        outclaimed_by = None if store is None else await outclaimed(store, run)
        decided = outclaimed_by or await self.effects.find(run)
        if decided is None and self._witness is not None and self._witness.tells_of(run):
            await self._witness.begin(run)
        return decided

    async def learn(self, ended: Sequence[tuple[Run, Outcome]]) -> Sequence[Outcome]:
        """These outcomes with what others have left for them: who died under the job, or what it is to return."""
        store = self.backend.store
        if store is None:
            return [outcome for _, outcome in ended]
        dead = [run.delivery for run, outcome in ended if isinstance(outcome, Poisonous | Lost)]
        others = [run.delivery.job for run, outcome in ended if not isinstance(outcome, Poisonous | Lost)]
        seen = iter(await last_seen(store, dead))
        values = iter(await all_of(given(store, job) for job in others))
        return [
            replace(outcome, worker=next(seen))
            if isinstance(outcome, Poisonous | Lost)
            else _given(run, outcome, next(values))
            for run, outcome in ended
        ]

    def _running(self) -> Sequence[Run]:
        return [run for pool in self.pools for run in list(pool.slots.running.values())]

    def _found(self, queues: Collection[str]) -> None:
        for pool in self.pools:
            pool.lineup.look(queues)
        self._notice()

    def _notice(self) -> None:
        for pool in self.pools:
            pool.notice()

    def _obey(self, runs: Sequence[Run], lease: Lease) -> None:
        if lease is Lease.CANCELLED:
            self._cancel(runs, Cancelled())
            return
        # Not those that are being settled, or were while the answer was on its way.
        unsettled = {receipt for pool in self.pools for receipt in pool.unsettled}
        lost = [run for run in runs if run.delivery.receipt in unsettled]
        for run in lost:
            run.lost = True
            self._events.emit(LeaseLost(**job_fields(run)))
        self._cancel(lost, Interrupted())

    def _out_of_contact(self, runs: Sequence[Run]) -> None:
        if self._on_lost_contact == "cancel":
            self._cancel(runs, Interrupted(reason=OUT_OF_CONTACT))

    def _cancel(self, runs: Sequence[Run], outcome: Outcome) -> None:
        for pool in self.pools:
            pool.slots.cancel([run for run in runs if run.delivery.receipt in pool.held], outcome)


def _given(run: Run, outcome: Outcome, value: bytes | None) -> Outcome:
    run.given = value is not None
    return outcome if value is None else Returned(value)
