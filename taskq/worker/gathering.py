"""Batched by load: what gathers while a call is under way goes with the next one, and nothing waits for a timer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Gathering(Generic[T]):
    """Things to be done together, at most so many at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: list[T] = []
        self._wake = asyncio.Event()
        self._closed = False

    def add(self, thing: T) -> None:
        """Do it soon."""
        self._waiting.append(thing)
        self._wake.set()

    def add_all(self, things: Iterable[T]) -> None:
        """Do all of them soon."""
        self._waiting += things
        self._wake.set()

    def put_back(self, things: Iterable[T]) -> None:
        """Do them again, before all that has come since."""
        self._waiting[:0] = things

    def close(self) -> None:
        """End :meth:`run` once nothing waits."""
        self._closed = True
        self._wake.set()

    async def run(self, act: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        """Do what gathers until closed."""
        while self._waiting or not self._closed:
            if self._waiting:
                now, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await act(now)
            else:
                self._wake.clear()
                await self._wake.wait()
