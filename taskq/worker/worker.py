"""Puts the pools and their broker together, and takes them apart without losing anything."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from math import inf
from typing import Any

import anyio
from msgspec.structs import replace

from taskq.brokers import Sites
from taskq.errors import ConfigError
from taskq.events import Events, WorkerDraining, WorkerStarted, WorkerStopped
from taskq.outcome import Interrupted
from taskq.worker.leases import extend_in_thread
from taskq.worker.link import Link
from taskq.worker.options import WorkerOptions
from taskq.worker.pool import Company, Pool
from taskq.worker.register import own_id
from taskq.worker.run import Run, Runnable
from taskq.worker.sight import Sight
from taskq.worker.slots import Slots
from taskq.worker.throttle import Throttle
from taskq.worker.watchdog import Watchdog

SETTLE_MARGIN = 1.0
"""Seconds that a broker out of reach may hold up a worker's end; what it did not take comes back by its lease."""


class Worker:
    """One process's worker."""

    def __init__(
        self,
        sites: Sites,
        runnables: Mapping[str, Mapping[str, Runnable]],
        events: Events,
        options: WorkerOptions,
        stations: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        self.id = own_id()
        self._options = options
        self._tasks = {name: runnable.version for each in runnables.values() for name, runnable in each.items()}
        self._events = events
        self._changed = asyncio.Event()
        self._started = self._draining = self._abandoned = False
        self._grace = anyio.CancelScope()
        """How long what runs at a drain may go on."""
        self._slots: list[Slots] = []
        self._watchdog = Watchdog(
            events,
            running_in=self._running_in,
            ended=lambda: sum(slots.ended for slots in self._slots),
            warning=options.stall_warning,
            limit=options.stall_limit,
            growth=options.growth_warning,
        )
        self._links = {
            broker: Link(
                sites.by_name[broker],
                events,
                options,
                worker=self.id,
                can_go_on=self._watchdog.within_limit if options.threads else lambda: True,
            )
            for broker in dict.fromkeys(pool.broker for pool in options.pools)
        }
        company = Company(options, events, self._slots, self._notice, self._allowance, self._enough)
        self._pools = [Pool(pool, self._links[pool.broker], runnables[pool.name], company) for pool in options.pools]
        self._stations = stations
        """What else goes on beside the lines until they end."""

    def look(self) -> Sight:
        """What it is doing; any thread may ask."""
        pools = self._pools
        silent = {name: link.contact.lost_for for name, link in self._links.items()}
        return Sight(
            started=self._started,
            draining=self._draining,
            quiet=all(pool.fetcher.is_quiet for pool in pools),
            slots=sum(pool.limit for pool in pools),
            withheld=sum(pool.most - pool.limit for pool in pools),
            running=sum(len(pool.slots.running) for pool in pools),
            held=self._held,
            lag=self._watchdog.lag,
            stalled=self._watchdog.stalled,
            away={name: seconds for name, seconds in silent.items() if seconds},
            out_of_contact=min(silent.values()),
        )

    @property
    def running(self) -> Sequence[Run]:
        """What runs now."""
        return [run for pool in self._pools for run in list(pool.slots.running.values())]

    @property
    def queues(self) -> Sequence[str]:
        """What it fetches from now."""
        return [queue for pool in self._pools for queue in pool.lineup.queues]

    @property
    def pools(self) -> Sequence[Pool]:
        """Its slots, by what they are for."""
        return self._pools

    @property
    def tasks(self) -> Mapping[str, int]:
        """The tasks it knows, each with its version."""
        return self._tasks

    @property
    def options(self) -> WorkerOptions:
        """How it works now."""
        return self._options

    def adopt(self, options: WorkerOptions) -> None:
        """Go on with other queues, slots and grace; everything else stays as it was when the worker was made.

        Raises ConfigError for other pools: they come with the worker.
        """
        named = {pool.name: pool for pool in options.pools}
        if {(pool.name, pool.broker) for pool in options.pools} != {
            (pool.name, pool.broker) for pool in self._options.pools
        }:
            raise ConfigError("pools were added, removed or moved: that takes a new worker, as in `taskq rollout`")
        self._options = replace(self._options, pools=options.pools, grace=options.grace)
        for pool in self._pools:
            pool.adopt(named[pool.options.name])
        for link in self._links.values():
            link.look_again()

    def drain(self, grace: float | None = None) -> None:
        """Stop fetching, finish what runs within the grace, give back the rest; :meth:`run` then returns.

        Said again, the last grace counts from then on.
        """
        self._grace.deadline = asyncio.get_running_loop().time() + (self._options.grace if grace is None else grace)
        self._draining = True
        self._stop_fetching()

    def abandon(self) -> None:
        """Do not wait for what runs: its leases end by themselves, so nothing is lost, and nothing overlaps."""
        self._draining = self._abandoned = True
        self._stop_fetching()
        self._notice()

    def quiet(self, quiet: bool) -> None:
        """Stop fetching for now, or go on."""
        for pool in self._pools:
            pool.fetcher.quiet(quiet)

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
                links = self._links.values()
                leases = [link.leases for link in links]
                if self._options.threads:
                    beside.start_soon(extend_in_thread, leases)
                    beside.start_soon(self._watchdog.run_in_thread)
                    await self._watchdog.begun.wait()
                else:
                    for each in leases:
                        beside.start_soon(each.run)
                for link in links:
                    beside.start_soon(link.run)
                if self._options.lag_target is not None and self._options.threads:
                    throttle = Throttle(self._pools, target=self._options.lag_target, least=self._options.slots_min)
                    beside.start_soon(throttle.run)
                for station in self._stations:
                    beside.start_soon(station)
                # The very first job may be one that blocks the loop.
                for each in leases:
                    await each.begun.wait()
                async with anyio.create_task_group() as looking:
                    for link in links:
                        looking.start_soon(link.look)
                self._started = True
                self._events.emit(WorkerStarted(queues=tuple(self.queues), slots=self._options.slots))
                await self._work()
            finally:
                for slots in self._slots:
                    slots.close()
                for link in self._links.values():
                    link.leases.stop()
                self._watchdog.stop()
            beside.cancel_scope.cancel()
        self._events.emit(WorkerStopped())

    async def _work(self) -> None:
        async with anyio.create_task_group() as line:
            for pool in self._pools:
                line.start_soon(pool.settler.run)
            async with anyio.create_task_group() as fetching:
                for pool in self._pools:
                    fetching.start_soon(self._fetch, pool)
            await self._finish()
            for pool in self._pools:
                pool.settler.close()
            with anyio.move_on_after(SETTLE_MARGIN):
                while self._held and not self._abandoned:
                    await self._change()
            if self._held:
                line.cancel_scope.cancel()

    async def _fetch(self, pool: Pool) -> None:
        await pool.fetcher.run()
        # One that found the end has found it for all.
        self._stop_fetching()

    def _stop_fetching(self) -> None:
        for pool in self._pools:
            pool.fetcher.stop()

    async def _finish(self) -> None:
        """Grace for what runs; then cancel it, and wait for its end, for nothing is given back while it runs."""
        if not self._draining:
            self.drain()
        for slots in self._slots:
            slots.give_back(Interrupted(begun=False))
        running = self.running
        if running:
            self._events.emit(WorkerDraining(running=len(running)))
        for run in running:
            if run.current is not None:
                run.current.stop("the worker is shutting down")
        with self._grace:
            await self._until_nothing_runs()
        for slots in self._slots:
            slots.cancel(list(slots.running.values()), Interrupted())
        await self._until_nothing_runs()

    async def _until_nothing_runs(self) -> None:
        while any(slots.running for slots in self._slots) and not self._abandoned:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _notice(self) -> None:
        self._changed.set()
        for pool in self._pools:
            pool.notice()

    @property
    def _held(self) -> int:
        return sum(len(pool.held) for pool in self._pools)

    def _running_in(self, fiber: "asyncio.Task[object] | None") -> Run | None:
        return next((run for slots in self._slots if (run := slots.running_in(fiber))), None)

    def _allowance(self) -> float:
        """How many more runs may begin."""
        if self._options.max_jobs is None:
            return inf
        return self._options.max_jobs - sum(slots.ended + len(slots.running) + slots.waiting for slots in self._slots)

    async def _enough(self) -> bool:
        """Whether nothing is left of what this worker was to work off."""
        if self._held:
            return False
        for link in self._links.values():
            await link.look_out()
        stats = [
            queue
            for pool in self._pools
            if (admin := self._links[pool.options.broker].own.admin) is not None
            for queue in await admin.stats(pool.lineup.queues)
        ]
        scheduled = sum(queue.later for queue in stats) if self._options.until == "empty" else 0
        return not scheduled and not any(queue.ready or queue.leased for queue in stats)
