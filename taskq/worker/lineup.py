"""The queues that a pool fetches from next, and in what order: those it names, and those its globs take in as they
appear."""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from math import inf

import anyio

from taskq.broker import Admin
from taskq.errors import BrokerError
from taskq.job import Delivery
from taskq.pools import Selection, in_turn

POLL = 2.0
"""Seconds between two looks for queues that have appeared."""
SHARE = 0.05
"""Of the time at most is spent on looking: it costs a broker the more the more jobs it holds."""
KEPT = 600.0
"""Seconds for which a queue without jobs is still fetched from: its next job need not wait for a look."""


class Waits:
    """Since when the next job of each queue may have waited, as the fetches themselves tell it.

    A fetch takes from its queues in turn. Those before the last one that it took from are empty; in that one, what
    comes next became due no sooner than what came last; of those behind it, if it got all it asked for, nothing.
    """

    _UNSEEN = -1e12
    """A queue that was never looked into may hold anything."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def learn(self, queues: Sequence[str], deliveries: Sequence[Delivery], full: bool, now: float) -> None:
        """What a fetch from these queues brought; ``full``: as many as it had asked for."""
        last = {delivery.job.queue: delivery for delivery in deliveries}
        reached = max((at for at, queue in enumerate(queues) if queue in last), default=-1)
        self._since |= dict.fromkeys(queues[:reached] if full else queues, now)
        if full and reached >= 0:
            delivery = last[queues[reached]]
            self._since[queues[reached]] = now - max(0.0, delivery.now - delivery.due)

    def urgent_first(self, targets: Mapping[str, float]) -> Sequence[str]:
        """The queue whose next job is the first to have waited as long as its target says, and so on."""
        return sorted(targets, key=lambda queue: self._since.get(queue, self._UNSEEN) + targets[queue])


class Lineup:
    """The queues of one pool."""

    def __init__(self, selection: Selection, known: Collection[str], paused: Callable[[], Collection[str]]) -> None:
        self.selection = selection
        self._known = known
        self._paused = paused
        self._weights = selection.among(known)
        """Or their targets, if it has some."""
        self._waits = Waits()

    @property
    def queues(self) -> Sequence[str]:
        """All of them, the first one first."""
        return [*self._weights]

    def adopt(self, selection: Selection) -> None:
        """Go on with other queues."""
        self.selection = selection
        self.look(self._known)

    def look(self, known: Collection[str]) -> None:
        """Take in what is known now."""
        self._known = known
        self._weights = self.selection.among(known)

    def next(self) -> Sequence[str]:
        """What to fetch from now, the first one first: without those that are paused."""
        paused = self._paused()
        queues: Iterable[str] = self._weights
        if self.selection.targets:
            queues = self._waits.urgent_first(self._weights)
        elif self.selection.weights:
            queues = in_turn(self._weights, random.random)
        return [queue for queue in queues if queue not in paused]

    def learn(self, queues: Sequence[str], deliveries: Sequence[Delivery], full: bool) -> None:
        """What a fetch from these queues brought; ``full``: as many as it had asked for."""
        if self.selection.targets:
            self._waits.learn(queues, deliveries, full, asyncio.get_running_loop().time())


class Lookout:
    """Knows the queues of a broker."""

    def __init__(
        self,
        admin: Admin,
        declared: Iterable[str],
        wanted: Callable[[], bool],
        found: Callable[[Collection[str]], None],
    ) -> None:
        self._admin = admin
        self._declared = frozenset(declared)
        self._wanted = wanted
        """Whether anybody has a glob."""
        self._found = found
        """Told when the queues are others than before."""
        self._seen: dict[str, float] = {}
        self._told = self._declared
        self._look_now = anyio.Event()

    def again(self) -> None:
        """Look at once: more may be wanted than before."""
        self._look_now.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._look_now = anyio.Event()
            took = await self.look()
            # Nothing tells that a queue has come into being.
            with anyio.move_on_after(max(POLL, took / SHARE) if self._wanted() else inf):
                await self._look_now.wait()

    async def look(self) -> float:
        """Find out which queues there are, and answer how many seconds that took."""
        began = time.monotonic()
        if self._wanted():
            # What the fetcher meets, too, it tells.
            with suppress(BrokerError):
                self._take_in([stats.queue for stats in await self._admin.stats()], began)
        return time.monotonic() - began

    def _take_in(self, queues: Sequence[str], now: float) -> None:
        self._seen |= dict.fromkeys(queues, now)
        self._seen = {queue: at for queue, at in self._seen.items() if now - at < KEPT}
        known = self._declared | self._seen.keys()
        if known != self._told:
            self._told = known
            self._found(known)
