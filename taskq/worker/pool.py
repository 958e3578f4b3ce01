"""Some of a worker's slots, and the line that keeps them full from some queues of one broker."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from math import inf

from msgspec import Struct

from taskq.events import Events
from taskq.job import Delivery, Job
from taskq.outcome import Interrupted
from taskq.worker.control import AGAIN, Paused, pauses_on
from taskq.worker.fetcher import WAIT, Fetcher
from taskq.worker.lineup import Lineup
from taskq.worker.link import Link
from taskq.worker.options import PoolOptions, WorkerOptions
from taskq.worker.run import Run, Runnable
from taskq.worker.runner import Runner
from taskq.worker.settler import Settler
from taskq.worker.slots import Slots

DRAINING = Interrupted(begun=False)
QUIET = Interrupted(begun=False, reason="the worker is to fetch nothing for now")
ENOUGH = Interrupted(begun=False, reason="the worker has begun as many jobs as it was to run")


class Company(Struct, frozen=True):
    """What a pool knows of the worker it is part of."""

    options: WorkerOptions
    events: Events
    slots: list[Slots]
    """Those of all pools."""
    changed: Callable[[], None]
    """Told when a slot frees, or a lease has ended."""
    allowance: Callable[[], float]
    """How many more jobs the worker may run."""
    enough: Callable[[], Awaitable[bool]]
    """Whether nothing is left of what the worker was to work off."""


class Pool:
    """Fetcher, slots, settler."""

    def __init__(self, options: PoolOptions, link: Link, runnables: Mapping[str, Runnable], company: Company) -> None:
        self.options = options
        self.held: dict[str, Run] = {}
        self._link = link
        self._allowance = company.allowance
        self._changed = company.changed
        self._beside = company.slots
        backend = link.backend
        self.lineup = Lineup(options.selection, company.options.known, lambda: link.control.paused)
        self.settler = Settler(
            backend,
            company.events,
            link.contact,
            carry_out=link.effects.carry_out,
            leave=link.effects.leave,
            finish=link.effects.finish,
            forget=link.forget,
            extend=link.leases.extend_now,
            settled=self._release,
            learn=link.learn,
        )
        self.slots = Slots(
            options.slots,
            Runner(runnables, backend.transactions, link.recall, link.keeper, backend.store),
            company.events,
            held=self.held,
            finish=self.settler.finish,
            changed=company.changed,
            admission=link.admission,
            beside=company.slots,
        )
        self.fetcher = Fetcher(
            backend.broker,
            self.slots,
            link.contact,
            company.events,
            lease=company.options.lease,
            held=self.held,
            leaving=lambda: len(self.settler.leaving),
            queues=self.lineup.next,
            learn=self.lineup.learn,
            deliver=self._deliver,
            allowance=company.allowance,
            enough=company.enough if company.options.until != "asked" else None,
            wait=WAIT if company.options.threads else inf,
            rouse=link.own.rouse,
        )
        link.pools.append(self)

    def adopt(self, options: PoolOptions) -> None:
        """Go on with other queues and slots."""
        self.options = options
        self.lineup.adopt(options.selection)
        self.use(options.slots)

    @property
    def most(self) -> int:
        """The slots it was given."""
        return self.options.slots

    @property
    def limit(self) -> int:
        """Those it uses: fewer while the worker is throttled."""
        return self.slots.size

    def use(self, slots: int) -> None:
        """Use so many from now on; what runs beyond that goes on."""
        self.slots.size = slots
        self.slots.advance()
        self.notice()

    @property
    def unsettled(self) -> Collection[str]:
        """The receipts that the broker is not being told of now."""
        return self.held.keys() - {run.delivery.receipt for batch in self.settler.settling for run, _ in batch}

    def notice(self) -> None:
        """Something changed: look again whether there is anything to fetch."""
        self.fetcher.wake()

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        paused, allowance = self._link.control.paused, self._allowance()
        resting = DRAINING if self.fetcher.stopped else QUIET if self.fetcher.is_quiet else None
        if paused or resting or len(deliveries) > allowance:
            # What was under way when the queue was paused, the worker was to rest, or another pool took the last run.
            wanted: list[Delivery] = []
            refused: list[Run] = []
            for delivery in deliveries:
                if resting or len(wanted) >= allowance or not paused.keys().isdisjoint(pauses_on(delivery.job)):
                    refused.append(Run(delivery))
                else:
                    wanted.append(delivery)
            self._hold(refused)
            for run in refused:
                self.settler.finish(run, _paused(run.delivery.job, paused) or resting or ENOUGH)
            deliveries = wanted
        self.slots.start(deliveries, self._hold)
        self._link.leases.begin()

    def _hold(self, runs: Sequence[Run]) -> None:
        now = asyncio.get_running_loop().time()
        for run in runs:
            run.held_since = now
            self.held[run.delivery.receipt] = run

    def _release(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.held.pop(run.delivery.receipt, None)
        for slots in self._beside:
            slots.advance()
        self._changed()


def _paused(job: Job, paused: Paused) -> Interrupted | None:
    """Why it is handed back as it came, if something about it is paused."""
    if job.queue in paused:
        return Interrupted(begun=False, reason="its queue is paused")
    if not paused.keys().isdisjoint(pauses_on(job)):
        return Interrupted(begun=False, reason="its task, tenant or a tag of it is paused", after=AGAIN)
    return None
