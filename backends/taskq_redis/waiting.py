"""How a fetch waits without asking again and again: it is told, it keeps the time, or it looks every few seconds."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from math import inf
from typing import Any

from taskq_redis.listener import Bell, Listener

LOOK = 2.5
"""Seconds between looks of a fetch that is told nothing: what a lost message costs, at two commands in five: so
many for each call that a look takes."""

DEAF = 0.5
"""The same while no message can arrive."""


_CLOSING = 1.0
"""Seconds for taking back what waits: where that fails, the server stops counting on it by itself, and leases end."""


class Wish:
    """A fetch's place among those that wait on the server; it outlives the fetch, for the next one to go on with."""

    __slots__ = ("bell", "lease", "look_at", "period", "queues", "waits")

    def __init__(self, queues: tuple[str, ...], lease: int, bell: Bell, period: float) -> None:
        self.queues = queues
        self.lease = lease
        """Microseconds for which it may be handed a job; 0: it is not."""
        self.bell = bell
        self.period = period
        self.waits = False
        """The server may count on it."""
        self.look_at = -inf
        """By the loop's clock: before that there is no need to ask."""

    @property
    def patience(self) -> int:
        """Microseconds for which a script counts on it when it waits: longer than between two looks."""
        return int(1.5e6 * self.period)


class Waiting:
    """The wishes of one broker."""

    def __init__(
        self,
        listener: Listener,
        leave: Callable[[Wish], Coroutine[Any, Any, None]],
        calls: Callable[[Sequence[str]], int],
    ) -> None:
        """``leave`` takes a wish back from the server, ``calls`` says how many calls a look into some queues takes."""
        self._listener = listener
        self._leave = leave
        self._calls = calls
        self._idle: dict[tuple[str, ...], list[Wish]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._waits: set[Wish] = set()
        self.roused = 0
        """How often waits were to end: one that began before the last time has to."""
        self.closed = False

    def begin(self, queues: Sequence[str], lease: int) -> Wish:
        """A wish for these queues, which may be waiting already; to be ended."""
        key = tuple(queues)
        idle = self._idle.get(key)
        wish = idle.pop() if idle else None
        if not idle:
            self._idle.pop(key, None)
        if wish is not None and wish.lease != lease:
            self._let_go(wish)
            wish = None
        if wish is None:
            wish = Wish(key, lease, self._listener.bell(lease), LOOK * self._calls(queues))
        wish.bell.passed = None
        self._waits.add(wish)
        return wish

    def end(self, wish: Wish) -> None:
        """Its fetch is over."""
        self._waits.discard(wish)
        # A job may be on its way to it although the server counts on it no more.
        if not (wish.waits or wish.lease) or self._listener.closed:
            self._listener.remove(wish.bell)
            return
        self._idle.setdefault(wish.queues, []).append(wish)
        wish.bell.passed = lambda: self._pass_on(wish)
        if wish.bell.rung or wish.bell.jobs or self.closed:
            self._pass_on(wish)

    async def recall(self, queues: Sequence[str]) -> None:
        """Let none be handed jobs of these queues while its fetch is over."""
        for wish in [wish for queue in queues for wish in self._idle.pop((queue,), [])]:
            self._let_go(wish)
        if self._leaving:
            await asyncio.wait(self._leaving)

    def rouse(self) -> None:
        """End the fetches that wait."""
        self.roused += 1
        for wish in self._waits:
            wish.bell.ring()

    async def until_told(self, wish: Wish, seconds: float) -> None:
        """Return when there may be something to fetch, or when the time is over."""
        now = asyncio.get_running_loop().time()
        await wish.bell.wait(max(0.0, min(seconds, wish.look_at - now)))

    def found_nothing(self, wish: Wish, moment: float) -> None:
        """The next look is needed in ``moment`` seconds at the latest."""
        # Two clocks are compared: a timer may ring a little before the moment has come.
        period = wish.period if self._listener.hears else DEAF
        wish.look_at = asyncio.get_running_loop().time() + min(period, max(moment, 0.001))

    async def close(self) -> None:
        """End the fetches that wait; what waits on the server is taken back as far as it can be reached."""
        self.closed = True
        self.rouse()
        # These end in this turn.
        await asyncio.sleep(0)
        idle, self._idle = self._idle, {}
        for wish in (wish for wishes in idle.values() for wish in wishes):
            self._let_go(wish)
        if self._leaving:
            _, late = await asyncio.wait(self._leaving, timeout=_CLOSING)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _pass_on(self, wish: Wish) -> None:
        """It was told of something while no fetch waits here: another one has to look."""
        idle = self._idle.get(wish.queues, [])
        if wish in idle and (wish.waits or wish.bell.jobs or self.closed):
            idle.remove(wish)
            if not idle:
                del self._idle[wish.queues]
            self._let_go(wish)

    def _let_go(self, wish: Wish) -> asyncio.Task[None]:
        """Take it back from the server; what comes to it until then is given back."""
        wish.bell.passed = lambda: None
        task = asyncio.get_running_loop().create_task(self._leave(wish))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task
