"""Several items of an iteration in progress at once, and a cursor that passes them in their order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any


class Window:
    """Items that were given and are not passed: in progress, or done and behind one that is not."""

    def __init__(
        self, size: int, handle: Callable[[Any], Coroutine[Any, Any, None]], leaving: Callable[[], bool]
    ) -> None:
        self._handle = handle
        self._leaving = leaving
        self._room = asyncio.Semaphore(size)
        self._ahead: deque[tuple[Any, asyncio.Task[None]]] = deque()
        self._stirred = asyncio.Event()
        """Something has ended since it was last looked."""

    async def run(self, items: AsyncGenerator[Any], passed: Callable[[Any], Awaitable[None]]) -> None:
        """Handle all items, or as many as are in progress when the run is to leave; ``passed`` is told in their order.

        When one raises, no further one is begun, those in progress may end, and its error is raised: the first one's.
        """
        feeding = self._begin(self._feed(items))
        try:
            while True:
                self._stirred.clear()
                while self._ahead and _has_returned(self._ahead[0][1]):
                    await passed(self._ahead.popleft()[0])
                    self._room.release()
                if self._is_over() and not feeding.cancelling():
                    feeding.cancel()
                if feeding.done() and all(task.done() for _, task in self._ahead):
                    break
                await self._stirred.wait()
            for task in (*(task for _, task in self._ahead), feeding):
                if not (task is feeding and task.cancelled()):
                    task.result()
        finally:
            await _end([feeding, *(task for _, task in self._ahead)])

    async def _feed(self, items: AsyncGenerator[Any]) -> None:
        async with aclosing(items):
            await self._room.acquire()
            async for item in items:
                if self._is_over():
                    break
                self._ahead.append((item, self._begin(self._handle(item))))
                await self._room.acquire()

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._stirred.set())
        return task

    def _is_over(self) -> bool:
        return self._leaving() or any(task.done() and not _has_returned(task) for _, task in self._ahead)


def _has_returned(task: "asyncio.Task[None]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _end(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
