"""Hot waiting: for a moment in which an answer is due, a loop that has nothing to do stays awake.

A loop that sleeps in the kernel is woken 20 to 100 µs late, more on an idle virtual machine, and an answer from nearby
takes no longer than that.
"""

import asyncio
import os
from collections.abc import Callable
from contextvars import Context
from time import monotonic

_MOST_SKIPPED = 64
"""A vain wait costs CPU: where all of them are, it is this part of what one in every call would take."""

_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Whoever is to answer may need this very core. Windows has no such call."""


class HotWait:
    """Between :meth:`begin` and :meth:`end`, for ``bound`` seconds at most, the running loop polls; never with 0.

    Whatever becomes ready meanwhile runs as ever. Where answers take longer, or others want the core, it soon gives up:
    after each vain wait twice as many calls go without one, until an answer has come in time.
    """

    __slots__ = ("_bound", "_clock", "_context", "_loop", "_polls", "_skip", "_skipped", "_until")

    def __init__(self, bound: float, clock: Callable[[], float] = monotonic) -> None:
        self._bound = bound
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        self._until: float | None = None
        self._polls = False
        self._skip = self._skipped = 0

    def begin(self) -> None:
        """A call was sent, and no other is under way."""
        if self._skipped < self._skip:
            self._skipped += 1
        elif self._bound:
            self._until = self._clock() + self._bound
            if not self._polls:
                self._polls = True
                self._loop.call_soon(self._poll, context=self._context)

    def end(self) -> None:
        """All is answered."""
        if self._until is not None:
            # In time or not: where others want the core too, whoever gives way comes back late.
            self._over(vain=self._clock() >= self._until)

    def _poll(self) -> None:
        if self._until is not None and self._clock() < self._until:
            _give_way()
            # A loop that has something to call does not sleep.
            self._loop.call_soon(self._poll, context=self._context)
            return
        self._polls = False
        if self._until is not None:
            self._over(vain=True)

    def _over(self, *, vain: bool) -> None:
        self._until = None
        self._skip, self._skipped = min(_MOST_SKIPPED, 2 * self._skip or 1) if vain else 0, 0
