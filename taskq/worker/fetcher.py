"""Asks the broker for as many jobs as there is room for: one fetcher a pool, never one a slot."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from math import ceil, inf

import anyio

from taskq.broker import Broker
from taskq.errors import BrokerError
from taskq.events import Events, JobsFetched
from taskq.job import Delivery
from taskq.outcome import Interrupted
from taskq.worker.contact import Contact
from taskq.worker.slots import Slots

WAIT = 1.0
"""Seconds an idle fetch waits: one command a second while there is nothing to do; where the broker cannot be roused, a
drain waits as long."""

_AHEAD, _AT_MOST = 0.01, 0.03
"""Seconds of work that a refill is at least, and at most where it is more than FEW times the slots."""
_FEW, _MANY = 4, 12
"""Times the slots: a refill takes no more, but for many short jobs whose fetches take long."""

STALE = 1.0
"""Seconds a measured refill counts: where jobs are short it is measured with every fetch."""

TOO_LONG = Interrupted(begun=False, reason="those before it take longer than was to be expected")


class Fetcher:
    """Keeps the slots full, and holds no more than the slots and one refill.

    The refill is what the slots finish during two round trips, a fetch and a settle: few jobs when they are long, so
    that an urgent one is never behind more than that. What was fetched ahead of short jobs goes back when long ones
    follow.
    """

    def __init__(
        self,
        broker: Broker,
        slots: Slots,
        contact: Contact,
        events: Events,
        *,
        lease: float,
        held: Collection[object],
        leaving: Callable[[], int],
        queues: Callable[[], Sequence[str]],
        learn: Callable[[Sequence[str], Sequence[Delivery], bool], None],
        deliver: Callable[[Sequence[Delivery]], None],
        allowance: Callable[[], float],
        enough: Callable[[], Awaitable[bool]] | None,
        wait: float,
        rouse: Callable[[], None] | None = None,
    ) -> None:
        self._broker = broker
        self._slots = slots
        self._contact = contact
        self._events = events
        self._lease = lease
        self._held = held
        """Everything fetched and not yet settled: a slow broker slows the fetching by itself."""
        self._leaving = leaving
        """How many of them are about to be settled, when the batches they are in have been told."""
        self._queues = queues
        """The queues to fetch from now: without those that are paused."""
        self._learn = learn
        """Told what a fetch from them brought, and whether that was all it had asked for."""
        self._deliver = deliver
        self._allowance = allowance
        """How many more jobs this worker may run."""
        self._enough = enough
        """Asked after a fetch that found nothing: whether to end."""
        self._wait = wait if enough is None else 0.0
        self._rouse = rouse
        """Ends the waits of fetches, where the broker can."""
        self._wake = asyncio.Event()
        self._fetching: anyio.CancelScope | None = None
        """Of a fetch that is cut off when something changes."""
        self._loop = asyncio.get_running_loop()
        self.stopped = False
        """Whether it was told to fetch no more; a last fetch may still be under way."""
        self.is_quiet = False
        """Whether it was told to fetch nothing for now."""
        self._refill = 0.0
        self._ended, self._measured_at = 0, self._loop.time()

    def wake(self) -> None:
        """Something changed: look again whether there is room."""
        self._wake.set()
        if self._fetching is not None:
            self._fetching.cancel()

    def stop(self) -> None:
        """Fetch no more; a fetch under way is asked to answer and waited for, so that nothing it got is withheld."""
        self.stopped = True
        self._interrupt()

    def quiet(self, quiet: bool) -> None:
        """Fetch no more for now, or again; what a fetch under way brings meanwhile is for others."""
        self.is_quiet = quiet
        self._interrupt()

    def _interrupt(self) -> None:
        self.wake()
        if self._rouse is not None:
            self._rouse()

    async def run(self) -> None:
        """Fetch until stopped."""
        while not self.stopped:
            self._forget()
            queues, room = self._queues(), self._room()
            if self._allowance() <= 0:
                return
            if not room or not queues or self.is_quiet:
                await self._until_woken()
                continue
            began, self._slots.expecting = self._loop.time(), True
            try:
                deliveries = await self._fetch(queues, room)
                if not deliveries and self._enough is not None and await self._is_over(self._enough):
                    return
            except BrokerError as error:
                self._deliver(())
                self._contact.fail(error)
                await self._contact.back_off()
                continue
            self._contact.succeed()
            self._learn(queues, deliveries, len(deliveries) >= room)
            took = self._loop.time() - began
            if JobsFetched in self._events.listeners:
                self._events.emit(JobsFetched(jobs=len(deliveries), seconds=took))
            if len(deliveries) == room and _was_there(deliveries[0], took):
                self._measure(took)
            self._deliver(deliveries)
            if self._enough is not None and deliveries:
                self._wait = 0.0
            if len(deliveries) < room:
                # There is no more for now, so what has come begins before the next call is made.
                await asyncio.sleep(0)

    async def _until_woken(self) -> None:
        self._wake.clear()
        # What waits in line must not wait for ever; a timer costs a tenth of what a cancel scope does.
        alarm = self._loop.call_later(STALE, self._wake.set) if self._slots.waiting else None
        await self._wake.wait()
        if alarm is not None:
            alarm.cancel()

    async def _fetch(self, queues: Sequence[str], room: int) -> Sequence[Delivery]:
        if self._wait < inf:
            # Not cut off at a drain: what a cancelled fetch had got would be withheld for a lease.
            return await self._broker.fetch(queues, room, lease=self._lease, wait=self._wait)
        # Under a virtual clock a tick a second would be all that ever happens, so this waits until something changes;
        # memory, the one backend that runs under it, takes back what a cancelled fetch had got.
        with anyio.CancelScope() as self._fetching:
            return await self._broker.fetch(queues, room, lease=self._lease, wait=inf)
        return ()

    async def _is_over(self, enough: Callable[[], Awaitable[bool]]) -> bool:
        """Whether nothing is left; if something is, the next look comes when it may have changed."""
        if not self._held:
            # Somebody else's jobs run, or are to come: the next fetch waits for them.
            self._wait = WAIT
            return await enough()
        self._wake.clear()
        with anyio.move_on_after(WAIT):
            await self._wake.wait()
        return False

    def _room(self) -> int:
        """How many to ask for: at least a quarter of all that may be held, unless a slot stands idle."""
        refill = round(self._refill)
        most = self._slots.size + refill
        # Members of batches are held for a round trip more than others, and so many more of them.
        held = len(self._held) - min(self._leaving(), refill)
        room = int(min(most - held, self._broker.traits.max_batch, self._allowance()))
        if room <= 0 or self._slots.blocked:
            return 0
        # One quarter is fetched while another runs, and the others end and are settled: nobody waits for anybody.
        if 4 * room >= most:
            return min(room, max(self._slots.size, ceil(most / 3)))
        # More room than there is now comes with the settlement of those that ended, which is under way.
        ended = held - len(self._slots.running) - self._slots.waiting
        return room if self._slots.idle and ended <= room else 0

    def _measure(self, took: float) -> None:
        """Completions a second times the round trip, from fetches that did not wait for jobs to come."""
        now = self._loop.time()
        elapsed = now - self._measured_at
        if elapsed > 0:
            rate = (self._slots.ended - self._ended) / elapsed
            # A place is taken while its job is fetched, and again while it is settled. And where jobs are short, what
            # runs meanwhile has to last as long as a fetch that waits for a disk.
            few = min(rate * max(2 * took, _AHEAD), _FEW * self._slots.size)
            many = min(rate * min(4 * took, _AT_MOST), _MANY * self._slots.size)
            self._refill += 0.2 * (max(few, many) - self._refill)
        self._ended, self._measured_at = self._slots.ended, now

    def _forget(self) -> None:
        """A refill that was measured on short jobs says nothing of long ones: what waits behind them is for others."""
        if self._loop.time() - self._measured_at >= STALE:
            self._refill = 0.0
            self._slots.hand_on(TOO_LONG)


def _was_there(delivery: Delivery, seconds: float) -> bool:
    """Whether it was due when it was asked for, so long ago; if not, the fetch has waited for it."""
    return delivery.now - delivery.due >= seconds
