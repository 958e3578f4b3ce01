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


class Wish:
    """A fetch's place among those that wait on the server; it outlives the fetch, for the next one to go on with."""

    __slots__ = ("bell", "look_at", "period", "queues", "waits")

    def __init__(self, queues: tuple[str, ...], bell: Bell, period: float) -> None:
        self.queues = queues
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
        """``calls`` says how many calls a look into some queues takes."""
        self._listener = listener
        self._leave = leave
        self._calls = calls
        self._idle: dict[tuple[str, ...], list[Wish]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._waits: set[Wish] = set()
        self.roused = 0
        """How often waits were to end: one that began before the last time has to."""

    @property
    def closed(self) -> bool:
        return self._listener.closed

    def begin(self, queues: Sequence[str]) -> Wish:
        """A wish for these queues, which may be waiting already; to be ended."""
        key = tuple(queues)
        idle = self._idle.get(key)
        wish = idle.pop() if idle else Wish(key, self._listener.bell(), LOOK * self._calls(queues))
        if not idle:
            self._idle.pop(key, None)
        wish.bell.passed = None
        self._waits.add(wish)
        return wish

    def end(self, wish: Wish) -> None:
        """Its fetch is over."""
        self._waits.discard(wish)
        if not wish.waits or self.closed:
            self._listener.remove(wish.bell)
            return
        self._idle.setdefault(wish.queues, []).append(wish)
        wish.bell.passed = lambda: self._pass_on(wish)
        if wish.bell.rung:
            self._pass_on(wish)

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
        """What waits on the server is taken back as far as it can be reached."""
        wishes = [wish for idle in self._idle.values() for wish in idle if wish.waits]
        self._idle.clear()
        tasks = [*self._leaving, *(asyncio.get_running_loop().create_task(self._leave(wish)) for wish in wishes)]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=DEAF)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _pass_on(self, wish: Wish) -> None:
        """It was told of something while no fetch waits here: another one has to look."""
        idle = self._idle.get(wish.queues, [])
        if wish not in idle:
            return
        idle.remove(wish)
        if not idle:
            del self._idle[wish.queues]
        self._listener.remove(wish.bell)
        if not self.closed:
            task = asyncio.get_running_loop().create_task(self._leave(wish))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
