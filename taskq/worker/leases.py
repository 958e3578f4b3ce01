"""Extends what the worker holds, from a thread with its own connection and loop: a job that blocks keeps its lease."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from math import inf

import anyio
import anyio.to_thread

from taskq.broker import Extender
from taskq.errors import BrokerError
from taskq.job import Lease
from taskq.limits.keeper import Keeper
from taskq.store import Store
from taskq.worker.run import Run
from taskq.worker.witness import Witness

MARGIN = 0.9
"""Of a lease: when it could not be extended for so long, it counts as lost before anybody else can have it."""

Obey = Callable[[Sequence[Run], Lease], None]


class Leases:
    """Every third of a lease, one call for all receipts."""

    def __init__(
        self,
        extender: Callable[[], AbstractAsyncContextManager[Extender]],
        held: Callable[[], Sequence[Run]],
        lease: float,
        *,
        obey: Obey,
        out_of_contact: Callable[[Sequence[Run]], None],
        hand_over: Callable[[Sequence[Run]], None],
        ceiling: float,
        can_go_on: Callable[[], bool],
        open_store: Callable[[], AbstractAsyncContextManager[Store]] | None = None,
        keeper: Keeper | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._extender = extender
        self._held = held
        self._lease = lease
        self._obey = obey
        """Called in the worker's loop with runs and what became of their leases."""
        self._out_of_contact = out_of_contact
        """Called in the worker's loop with runs that nobody has extended for so long that their leases may be over."""
        self._hand_over = hand_over
        """Called in the worker's loop with runs that cannot be held much longer."""
        self._ceiling = ceiling
        """Seconds a job can be held in all."""
        self._can_go_on = can_go_on
        """False once the worker's loop has stood still for so long that its leases are to be let go."""
        self._open_store = open_store
        """A Store for the loop that extends, opened when it is needed, and not before."""
        self._keeper = keeper
        """Knows the places that held jobs have under limits: they are renewed, too."""
        self._witness = witness
        """Tells of runs whose worker may die."""
        self._store: Store | None = None
        self._opened = AsyncExitStack()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False
        self._alarm: asyncio.TimerHandle | None = None
        self._answered_at = 0.0
        """When the last call that was answered began, by the own loop's clock, or the last alarm rang."""
        self._silent: dict[str, float] = {}
        """Since when the server of these receipts has not answered, while others have."""
        self.begun = asyncio.Event()
        """Set once :meth:`run` runs: before that a job that blocks the worker's loop would lose its lease."""

    def stop(self) -> None:
        """End :meth:`run`; called in the worker's loop."""
        self._stopped = True
        self._poke()

    async def extend_now(self) -> None:
        """Extend all leases and come back when the answers were obeyed; called in the worker's loop."""
        if self._stopped:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        self._poke()
        await waiter

    def begin(self) -> None:
        """Something is held from now on; called in the worker's loop."""
        if self._own_loop is self._loop:
            self._wake.set()

    def _poke(self) -> None:
        loop = self._own_loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Extend until stopped."""
        self._own_loop = asyncio.get_running_loop()
        self._loop.call_soon_threadsafe(self.begun.set)
        self._answered_at = self._own_loop.time()
        self._arm()
        period = self._lease / 3
        try:
            while not self._stopped:
                try:
                    async with self._extender() as extender:
                        while not self._stopped:
                            began = self._own_loop.time()
                            await self._extend(extender)
                            self._answered_at = began
                            self._arm()
                            await self._until(period)
                except BrokerError:
                    # Said once by the stations that fetch and settle; here only time counts.
                    self._answer_waiters()
                    await self._until(min(1.0, period / 3))
        finally:
            self._disarm()
            self._answer_waiters()
            self._store = None
            await self._opened.aclose()

    async def _until(self, seconds: float) -> None:
        # In the worker's own loop, under a virtual clock, ticks that do nothing would be all there is.
        idle = self._own_loop is self._loop and not self._held()
        if idle:
            self._disarm()
        with anyio.move_on_after(inf if idle else seconds):
            await self._wake.wait()
        self._wake.clear()

    def _arm(self) -> None:
        """A timer, because a server that hangs raises nothing for as long as its driver is patient."""
        self._disarm()
        assert self._own_loop is not None, "only run() calls this"  # noqa: S101
        since = min(self._answered_at, *self._silent.values(), inf)
        self._alarm = self._own_loop.call_at(since + MARGIN * self._lease, self._ring, since)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _ring(self, since: float) -> None:
        """Whatever has not been extended since then may be over."""
        assert self._own_loop is not None, "only run() calls this"  # noqa: S101
        runs = self._held()
        if self._answered_at > since:
            runs = [run for run in runs if self._silent.get(run.delivery.receipt, inf) <= since]
        else:
            self._answered_at = self._own_loop.time()
        self._silent = {receipt: at for receipt, at in self._silent.items() if at > since}
        self._loop.call_soon_threadsafe(self._out_of_contact, runs)
        self._arm()

    async def _extend(self, extender: Extender) -> None:
        waiters, runs = self._take_waiters(), self._held()
        if not self._can_go_on():
            runs = ()
        try:
            if runs:
                receipts = [run.delivery.receipt for run in runs]
                answers = await extender.extend(receipts, self._lease)
                unknown = [receipt for receipt, lease in zip(receipts, answers, strict=True) if lease is Lease.UNKNOWN]
                self._silent = {receipt: self._silent.get(receipt, self._answered_at) for receipt in unknown}
                self._loop.call_soon_threadsafe(self._tell, runs, answers)
                await self._renew(runs, answers)
        finally:
            self._loop.call_soon_threadsafe(_resolve, waiters)

    async def _renew(self, runs: Sequence[Run], answers: Sequence[Lease]) -> None:
        if self._open_store is None:
            return
        held = {run.delivery.receipt: run for run, lease in zip(runs, answers, strict=True) if lease is not Lease.LOST}
        # Should the Store be away: the next third of the lease is in time.
        with suppress(BrokerError):
            if self._keeper is not None and self._keeper.places:
                # Who was so late that its place went to another must not go on beside it.
                lost = [held[receipt] for receipt in await self._keeper.renew(await self._opened_store(), held)]
                if lost:
                    self._loop.call_soon_threadsafe(self._obey, lost, Lease.LOST)
            if self._witness is not None:
                for run in filter(self._witness.tells_of, runs):
                    await self._witness.tell(await self._opened_store(), run)

    async def _opened_store(self) -> Store:
        assert self._open_store is not None, "only _renew() calls this"  # noqa: S101
        if self._store is None:
            self._store = await self._opened.enter_async_context(self._open_store())
        return self._store

    def _tell(self, runs: Sequence[Run], answers: Sequence[Lease]) -> None:
        for lease in (Lease.LOST, Lease.CANCELLED):
            affected = [run for run, answer in zip(runs, answers, strict=True) if answer is lease]
            if affected:
                self._obey(affected, lease)
        # One lease to be extended for once more, one for the run to end in.
        latest = self._loop.time() - (self._ceiling - 2 * self._lease)
        self._hand_over([run for run in runs if run.held_since < latest and run.asked is None])

    def _take_waiters(self) -> list[asyncio.Future[None]]:
        waiters, self._waiters = self._waiters, []
        return waiters

    def _answer_waiters(self) -> None:
        self._loop.call_soon_threadsafe(_resolve, self._take_waiters())


async def extend_in_thread(leases: Iterable[Leases]) -> None:
    """Extend until all are stopped, from one thread, which is theirs alone."""

    async def extend() -> None:
        async with anyio.create_task_group() as group:
            for each in leases:
                group.start_soon(each.run)

    await anyio.to_thread.run_sync(lambda: asyncio.run(extend()), limiter=anyio.CapacityLimiter(1))


def _resolve(waiters: Sequence[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
