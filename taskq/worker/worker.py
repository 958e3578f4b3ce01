"""Puts the line of stations together, and takes it apart without losing anything."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from math import inf
from typing import Any, Literal

import anyio
from msgspec import Struct
from msgspec.structs import replace

from taskq.broker import Admin, Backend
from taskq.errors import MissingCapability
from taskq.events import Events, LeaseLost, WorkerDraining, WorkerStarted, WorkerStopped
from taskq.job import Delivery, Lease
from taskq.limits.keeper import Keeper
from taskq.limits.renewal import Renewal
from taskq.outcome import Cancelled, Decision, Interrupted, Outcome
from taskq.worker.admission import Admission
from taskq.worker.claims import outclaimed
from taskq.worker.contact import Contact
from taskq.worker.control import HINTED_POLL, POLL, Control
from taskq.worker.effects import Effects
from taskq.worker.fetcher import WAIT, Fetcher
from taskq.worker.leases import Leases
from taskq.worker.runner import Run, Runnable, Runner, job_fields
from taskq.worker.settler import Settler
from taskq.worker.sight import Sight
from taskq.worker.slots import Slots
from taskq.worker.undertaker import Caps, undertaker_of
from taskq.worker.watchdog import Watchdog

SETTLE_MARGIN = 1.0
"""Seconds that a broker out of reach may hold up a worker's end; what it did not take comes back by its lease."""
HELD_LONG = "it was held as long as the broker holds a job"
OUT_OF_CONTACT = "the broker did not answer while its lease ran out"


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """How a worker works; seconds throughout."""

    queues: Sequence[str]
    slots: int = 100
    lease: float = 30.0
    grace: float = 25.0
    on_lost_contact: Literal["cancel", "finish"] = "cancel"
    stall_warning: float = 2.0
    stall_limit: float = 600.0
    until: Literal["asked", "idle", "empty"] = "asked"
    """When to end: when asked to; also when nothing is due or runs; also when nothing is scheduled either."""
    max_jobs: int | None = None
    """End after so many runs."""
    schedules: bool = True
    """Whether to fire schedules. A worker that ends by itself never does: it is there for what is there."""
    dead: Caps = Caps()
    """What a queue keeps of dead letters."""
    threads: bool = True
    """False under a virtual clock: everything happens in the loop, and nothing that only looks whether it should."""


class Worker:
    """One process's worker on one broker."""

    def __init__(
        self,
        backend: Backend,
        runnables: Mapping[str, Runnable],
        events: Events,
        options: WorkerOptions,
        stations: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        if options.until != "asked" and backend.admin is None:
            raise MissingCapability("a worker that ends by itself has to count what is left: this backend has no Admin")
        self._options = options
        self._backend = backend
        self._tasks = {name: runnable.version for name, runnable in runnables.items()}
        self._events = events
        undertaker = undertaker_of(backend, events, options.dead)
        self._stations = [*stations, *([] if undertaker is None else [undertaker.run])]
        """What else goes on beside the line until it ends."""
        self._held: dict[str, Run] = {}
        self._changed = asyncio.Event()
        self._started = self._abandoned = False
        self._grace = anyio.CancelScope()
        """How long what runs at a drain may go on."""
        self._contact = Contact(events)
        self._effects = effects = Effects(backend)
        keeper = None if backend.store is None else Keeper(backend.store, options.lease)
        self._slots = Slots(
            options.slots,
            Runner(runnables, backend.transactions, self._recall, keeper, backend.store),
            events,
            held=self._held,
            finish=self._finish_run,
            changed=self._notice,
            admission=None if keeper is None else Admission(keeper),
        )
        self._watchdog = Watchdog(
            events, running_in=self._slots.running_in, warning=options.stall_warning, limit=options.stall_limit
        )
        self._leases = Leases(
            backend.extender,
            self._held,
            options.lease,
            obey=self._obey,
            out_of_contact=self._out_of_contact,
            hand_over=lambda runs: self._slots.cancel(runs, Interrupted(reason=HELD_LONG)),
            ceiling=backend.broker.traits.max_lease,
            can_go_on=self._watchdog.within_limit if options.threads else lambda: True,
            renewal=None if keeper is None or backend.open_store is None else Renewal(keeper, backend.open_store),
        )
        self._settler = Settler(
            backend,
            events,
            self._contact,
            carry_out=effects.carry_out,
            forget=effects.forget if undertaker is None else undertaker.following(effects.forget),
            extend=self._leases.extend_now,
            settled=self._release,
        )
        self._control = Control(
            backend,
            cancel=self._leases.extend_now,
            changed=self._notice,
            holds=self._holds,
            poll=inf if not options.threads else POLL if backend.hints is None else HINTED_POLL,
        )
        self._fetcher = Fetcher(
            backend.broker,
            self._slots,
            self._contact,
            events,
            lease=options.lease,
            held=self._held,
            queues=lambda: [queue for queue in self._options.queues if queue not in self._control.paused],
            deliver=self._deliver,
            allowance=self._allowance,
            enough=self._enough if options.until != "asked" else None,
            wait=WAIT if options.threads else inf,
        )

    def look(self) -> Sight:
        """What it is doing; any thread may ask."""
        return Sight(
            started=self._started,
            draining=self._fetcher.stopped,
            quiet=self._fetcher.is_quiet,
            slots=self._slots.size,
            running=len(self._slots.running),
            held=len(self._held),
            lag=self._watchdog.lag,
            stalled=self._watchdog.stalled,
            out_of_contact=self._contact.lost_for,
        )

    @property
    def running(self) -> Iterable[Run]:
        """What runs now."""
        return list(self._slots.running.values())

    @property
    def tasks(self) -> Mapping[str, int]:
        """The tasks it knows, each with its version."""
        return self._tasks

    @property
    def options(self) -> WorkerOptions:
        """How it works now."""
        return self._options

    def adopt(self, options: WorkerOptions) -> None:
        """Go on with other queues, slots and grace; everything else stays as it was when the worker was made."""
        self._options = replace(self._options, queues=options.queues, slots=options.slots, grace=options.grace)
        self._slots.size = options.slots
        self._slots.advance()
        self._notice()

    def drain(self, grace: float | None = None) -> None:
        """Stop fetching, finish what runs within the grace, give back the rest; :meth:`run` then returns.

        Said again, the last grace counts from then on.
        """
        self._grace.deadline = asyncio.get_running_loop().time() + (self._options.grace if grace is None else grace)
        self._fetcher.stop()

    def abandon(self) -> None:
        """Do not wait for what runs: its leases end by themselves, so nothing is lost, and nothing overlaps."""
        self._abandoned = True
        self._fetcher.stop()
        self._notice()

    def quiet(self, quiet: bool) -> None:
        """Stop fetching for now, or go on."""
        self._fetcher.quiet(quiet)

    async def run(self) -> None:
        """Work until drained, or until the options' end. Raises nothing of what jobs or the broker do.

        Cancelling drains, too, with no grace: what runs is cancelled, and its end awaited and settled.
        """
        # In a task of its own, or a cancellation would take the line apart under jobs that run on in theirs, with
        # nobody to extend their leases.
        line = asyncio.get_running_loop().create_task(self._run())
        try:
            await asyncio.shield(line)
        except asyncio.CancelledError:
            self.drain()
            self._grace.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({line})
            line.result()
            raise

    async def _run(self) -> None:
        async with anyio.create_task_group() as beside:
            try:
                if self._options.threads:
                    beside.start_soon(self._leases.run_in_thread)
                    beside.start_soon(self._watchdog.run_in_thread)
                    await self._watchdog.begun.wait()
                else:
                    beside.start_soon(self._leases.run)
                beside.start_soon(self._control.run)
                for station in self._stations:
                    beside.start_soon(station)
                # The very first job may be one that blocks the loop.
                await self._leases.begun.wait()
                await self._control.look()
                self._started = True
                self._events.emit(WorkerStarted(queues=tuple(self._options.queues), slots=self._options.slots))
                await self._work()
            finally:
                self._slots.close()
                self._leases.stop()
                self._watchdog.stop()
            beside.cancel_scope.cancel()
        self._events.emit(WorkerStopped())

    async def _work(self) -> None:
        async with anyio.create_task_group() as line:
            line.start_soon(self._settler.run)
            await self._fetcher.run()
            await self._finish()
            self._settler.close()
            with anyio.move_on_after(SETTLE_MARGIN):
                while self._held and not self._abandoned:
                    await self._change()
            if self._held:
                line.cancel_scope.cancel()

    async def _finish(self) -> None:
        """Grace for what runs; then cancel it, and wait for its end, for nothing is given back while it runs."""
        if not self._fetcher.stopped:
            self.drain()
        self._slots.give_back()
        if self._slots.running:
            self._events.emit(WorkerDraining(running=len(self._slots.running)))
        for run in self.running:
            if run.current is not None:
                run.current.stopping = True
        with self._grace:
            await self._until_nothing_runs()
        self._slots.cancel(self.running, Interrupted())
        await self._until_nothing_runs()

    async def _until_nothing_runs(self) -> None:
        while self._slots.running and not self._abandoned:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _notice(self) -> None:
        self._changed.set()
        self._fetcher.wake()

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        paused, draining = self._control.paused, self._fetcher.stopped
        if paused or draining:
            # What was under way when the queue was paused, or the drain began.
            for delivery in deliveries:
                if draining or delivery.job.queue in paused:
                    run = Run(delivery)
                    self._hold([run])
                    self._settler.finish(run, Interrupted(begun=False))
            deliveries = [d for d in deliveries if not draining and d.job.queue not in paused]
        self._slots.start(deliveries, self._hold)
        self._leases.begin()

    def _finish_run(self, run: Run, outcome: Outcome | Decision) -> None:
        self._settler.finish(run, outcome)

    async def _recall(self, run: Run) -> Decision | None:
        """What was decided about this job before its handler could begin here."""
        store = self._backend.store
        outclaimed_by = None if store is None else await outclaimed(store, run)
        return outclaimed_by or await self._effects.find(run)

    def _holds(self, id: str) -> bool:
        return any(run.delivery.job.id == id for run in self._held.values())

    def _hold(self, runs: Sequence[Run]) -> None:
        now = asyncio.get_running_loop().time()
        for run in runs:
            run.held_since = now
            self._held[run.delivery.receipt] = run

    def _release(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self._held.pop(run.delivery.receipt, None)
        self._slots.advance()
        self._notice()

    def _obey(self, runs: Iterable[Run], lease: Lease) -> None:
        if lease is Lease.CANCELLED:
            self._slots.cancel(runs, Cancelled())
            return
        # Not those that are being settled, or were while the answer was on its way.
        unsettled = self._held.keys() - {run.delivery.receipt for run, _ in self._settler.settling}
        lost = [run for run in runs if run.delivery.receipt in unsettled]
        for run in lost:
            run.lost = True
            self._events.emit(LeaseLost(**job_fields(run)))
        self._slots.cancel(lost, Interrupted())

    def _out_of_contact(self) -> None:
        if self._options.on_lost_contact == "cancel":
            self._slots.cancel(list(self._held.values()), Interrupted(reason=OUT_OF_CONTACT))

    def _allowance(self) -> float:
        """How many more runs may begin."""
        if self._options.max_jobs is None:
            return inf
        return self._options.max_jobs - self._slots.ended - len(self._slots.running) - self._slots.waiting

    async def _enough(self) -> bool:
        """Whether nothing is left of what this worker was to work off."""
        admin: Admin | None = self._backend.admin
        if self._held or admin is None:
            return False
        stats = await admin.stats(self._options.queues)
        scheduled = sum(queue.later for queue in stats) if self._options.until == "empty" else 0
        return not scheduled and not any(queue.ready or queue.leased for queue in stats)
