"""A virtual clock: an event loop whose time jumps to the next timer when nothing is left to do.

A whole app runs under it on ``memory://``, because that backend and the worker take their time from the loop. What
asks the operating system, as ``time.time()`` and real servers do, knows nothing of it: see :meth:`VirtualClock.now` and
:meth:`VirtualClock.standing_still`.
"""

import asyncio
import gc
import selectors
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context
from datetime import UTC, datetime, timedelta
from math import inf
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import Any, Self, TypeVar, TypeVarTuple

import anyio.to_process
import anyio.to_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits for time, only for work outside of it: threads and child processes."""

    is_virtual = True
    """A worker that finds this keeps everything in its loop."""

    def __init__(self) -> None:
        self._now = 0.0
        self._outside = 0
        self._settling: list[asyncio.Future[None]] = []
        self._ticking: list[asyncio.Future[bool]] = []
        self._moved: set[asyncio.Task[Any]] = set()
        """The tasks that have had a step since time passed: all others stand where they stood."""
        self._away: set[asyncio.Task[Any]] = set()
        """Those that wait for a thread or child process."""
        super().__init__(_Selector(self._nothing_to_do))

    def time(self) -> float:
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if when == inf:
            # asyncio would wake up once a day for it, and the clock would run away.
            return asyncio.TimerHandle(when, callback, args, self, context)
        return super().call_at(when, callback, *args, context=context)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        task = getattr(callback, "__self__", None)
        if isinstance(task, asyncio.Task):
            self._moved.add(task)  # pyright: ignore[reportUnknownArgumentType] - what it returns is nothing to us
        return super().call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._outside += 1
        future.add_done_callback(self._came_back)
        return future

    async def settle(self) -> None:
        """Return when nothing is left to do at this moment."""
        settled: asyncio.Future[None] = self.create_future()
        self._settling.append(settled)
        await settled

    async def tick(self) -> bool:
        """Return when time has passed, as far as the next timer; False when there is none to wait for."""
        ticked: asyncio.Future[bool] = self.create_future()
        self._ticking.append(ticked)
        return await ticked

    @contextmanager
    def standing_still(self) -> Generator[None]:
        """Within the context time does not pass."""
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1

    def _came_back(self, _: "asyncio.Future[Any]") -> None:
        self._outside -= 1

    def _nothing_to_do(self, timeout: float | None) -> bool:
        """Called when no callback is ready: lets time pass. False: first something outside has to come back."""
        if self._moved:
            self._away |= self._moved
            self._away = {task for task in self._away if not task.done() and is_outside(task.get_coro())}
            self._moved.clear()
        if self._outside or self._away:
            return False
        if self._settling:
            _resolve(self._settling, None)
            return True
        if timeout is None and not self._ticking:
            return False
        self._now += timeout or 0.0
        _resolve(self._ticking, timeout is not None)
        return True


def _resolve(futures: list[asyncio.Future[T]], value: T) -> None:
    for future in futures:
        if not future.done():
            future.set_result(value)
    futures.clear()


class _Selector(selectors.DefaultSelector):
    """Asks before it would wait."""

    def __init__(self, nothing_to_do: Callable[[float | None], bool]) -> None:
        super().__init__()
        self._nothing_to_do = nothing_to_do

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0) or self._nothing_to_do(timeout):
            return events
        return super().select(None)


# Neither anyio nor the loop tells of the calls that are under way in anyio's own threads and processes. But whoever
# waits for one stands in one of these two functions, however it was imported, and a task can be asked where it stands.
_OUTSIDE: frozenset[CodeType] = frozenset(
    function.__code__ for function in (anyio.to_thread.run_sync, anyio.to_process.run_sync, asyncio.to_thread)
)


_STEPS = (CoroutineType, GeneratorType, AsyncGeneratorType)


def is_outside(step: object) -> bool:
    """Whether a coroutine waits for a thread or child process."""
    while step is not None:
        code, step = code_and_next(step)
        if code in _OUTSIDE:
            return True
    return False


def code_and_next(step: object) -> tuple[object, object]:
    """What runs in one step of a chain of awaits, and the step it waits for."""
    for code, following in (("cr_code", "cr_await"), ("gi_code", "gi_yieldfrom"), ("ag_code", "ag_await")):
        if hasattr(step, code):
            return getattr(step, code), getattr(step, following)
    # What drives an async generator, or wraps a coroutine, shows what it holds to the garbage collector alone.
    held: list[object] = gc.get_referents(step)
    return None, next((inner for inner in held if type(inner) in _STEPS), None)


class VirtualClock:
    """``with VirtualClock() as clock: clock.run(main())``, where ``main`` may ``await clock.advance(hours=5)``.

    Starts at 0. Time passes only while everything waits for it, and never while a thread or child process is at work:
    a sync handler that waits for its time-out waits for ever.
    """

    def __init__(self) -> None:
        self._began = datetime.now(UTC)
        self._runner = asyncio.Runner(loop_factory=self.make_loop)
        self._loop: VirtualLoop | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.close()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, as ``asyncio.run`` does; time goes on where the last run left it."""
        return self._runner.run(main)

    def make_loop(self) -> VirtualLoop:
        """A new loop that this clock then speaks of, for who makes loops: ``("asyncio", {"loop_factory": …})``."""
        self._loop = VirtualLoop()
        return self._loop

    @property
    def loop(self) -> VirtualLoop:
        """The loop; raises RuntimeError before there is one."""
        if self._loop is None:
            raise RuntimeError("this clock has no loop yet: it begins with run()")
        return self._loop

    def time(self) -> float:
        """Seconds since the clock began."""
        return self.loop.time()

    def now(self) -> datetime:
        """The moment that an app opened at the clock's beginning takes for the present: use it for ``run_at``."""
        return self._began + timedelta(seconds=self.time())

    async def advance(
        self, seconds: float = 0.0, *, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0
    ) -> None:
        """Let so much time pass, and return when everything due by then has been done; by 0: what can be done now."""
        await self.loop.settle()
        await asyncio.sleep(seconds + 60.0 * (minutes + 60.0 * (hours + 24.0 * days)))
        await self.loop.settle()

    def standing_still(self) -> AbstractContextManager[None]:
        """Within the context time does not pass: around whatever waits for the world outside."""
        return self.loop.standing_still()
