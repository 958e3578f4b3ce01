"""The processes that run one state of the code: each place is kept filled until the generation makes way."""

import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from taskq.worker.child import MAKE_WAY, Child
from taskq.worker.nursery import Nursery

LONGEST_PAUSE = 30.0
"""Seconds between two starts in a place whose processes keep dying."""
WEIGHED_EVERY = 1.0
WRONG = 2
"""A worker's exit code when its command line, settings or app are wrong: another start would not help."""

_log = logging.getLogger("taskq.supervisor")


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be kept running; seconds and bytes."""

    command: Sequence[str]
    """Of one worker."""
    processes: int
    max_memory: int | None = None
    """A process that holds more is replaced, and then finishes what it runs."""
    boot: float = 60.0
    """How long a process may take until it fetches."""
    preload: bool = False
    """Whether to import the app once and fork its processes from there."""
    gate: float = 10.0
    """How long all new processes have to live before the old ones make way to them."""


def pause_after(deaths: int) -> float:
    """Seconds until a place is filled again whose processes died so often in a row without having worked."""
    return min(LONGEST_PAUSE, 0.5 * 2.0 ** min(deaths, 10))


def told(code: int) -> str:
    """How a process ended."""
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


class Generation:
    """So many processes, restarted when they die and replaced when they outgrow their memory."""

    def __init__(self, number: int, plan: Plan, socket: str, *, changed: Callable[[], None]) -> None:
        self.number = number
        self.children: dict[int, Child] = {}
        """By process id: those that serve, and those that leave."""
        self.failure: str | None = None
        """How the first process ended that did so by itself."""
        self.refused: int | None = None
        """The exit code that shows that no process of this generation can begin to work."""
        self._plan = plan
        self._nursery = Nursery(plan.command, socket, preload=plan.preload, boot=plan.boot)
        self._tell = changed
        self._proven = False
        """Whether one of its processes has ever begun to fetch."""
        self._quiet = False
        self._farewell: signal.Signals | None = None
        """What all its processes were asked to end by."""
        self._over = anyio.Event()
        """Set when no place is to be filled any more."""
        self._changed = anyio.Event()

    @property
    def serving(self) -> bool:
        """Whether its places are kept filled."""
        return not self._over.is_set()

    @property
    def ready(self) -> bool:
        """Whether all its places are filled with processes that fetch."""
        ready = [child for child in self.children.values() if child.ready.is_set() and not child.leaving]
        return len(ready) == self._plan.processes

    async def run(self) -> None:
        """Keep the places filled; returns when that is over and the last process has ended."""
        async with anyio.create_task_group() as beside:
            if self._plan.max_memory is not None:
                beside.start_soon(self._weigh, self._plan.max_memory)
            async with anyio.create_task_group() as places:
                for _ in range(self._plan.processes):
                    places.start_soon(self._keep, places, beside)
            beside.cancel_scope.cancel()
        self._over.set()
        self._notice()

    async def begun(self) -> bool:
        """Whether all its processes came to fetch; waits for that, or for its end."""
        await self._until(lambda: self.ready or not self.serving)
        return self.ready

    async def proven(self) -> bool:
        """Whether all its processes came to fetch, and then lived for the gate's time."""

        def refuted() -> bool:
            return self.failure is not None or not self.serving

        await self._until(lambda: self.ready or refuted())
        with anyio.move_on_after(self._plan.gate):
            await self._until(refuted)
        return not refuted()

    async def tell_that_it_took_over(self) -> None:
        """Let one of its processes, which know the Store, note that this code serves now."""
        for child in [child for child in self.children.values() if child.ready.is_set() and not child.leaving][:1]:
            await child.tell_that_it_took_over()

    def make_way(self) -> None:
        """Fill no place any more; what runs may finish, however long it takes."""
        self.stop(MAKE_WAY)

    def stop(self, number: signal.Signals) -> None:
        """Fill no place any more, and send all processes this signal, by which they end."""
        self._farewell = number
        self._over.set()
        self._notice()
        self._nursery.stop()
        for child in self.children.values():
            child.leave(number)

    def hear(self, fields: Mapping[str, str]) -> None:
        """Take note of what any process tells."""
        self._nursery.hear(fields)
        child = self.children.get(int(fields.get("MAINPID", "0")))
        if child is not None:
            child.hear(fields)

    def send(self, number: signal.Signals) -> None:
        """Send all its processes a signal; who starts later is as quiet as the others."""
        if number in (signal.SIGTSTP, signal.SIGUSR1, signal.SIGCONT):
            self._quiet = number is not signal.SIGCONT
        for child in self.children.values():
            # Before it heeds signals it would die of most of them; the settings it reads when it starts are new.
            if child.ready.is_set():
                child.send(number)

    async def _keep(self, places: TaskGroup, beside: TaskGroup) -> None:
        """Keep one place filled."""
        deaths, outgrown = 0, None
        while self.serving:
            child = await self._start(places, beside)
            if outgrown is not None:
                # It goes on fetching until there is another.
                await self._until(partial(_begun, child))
                outgrown.leave(MAKE_WAY)
                outgrown = None
            await self._until(partial(_left, child))
            if child.code is None:
                outgrown = child
            elif child.code == 0 or not self._worth_another(child.pid, child.code):
                return
            else:
                deaths = 1 if child.ready.is_set() else deaths + 1
                pause = pause_after(deaths)
                _log.warning("worker %d %s; another one in %.1f s", child.pid, told(child.code), pause)
                with anyio.move_on_after(pause):
                    await self._over.wait()

    def _worth_another(self, pid: int, code: int) -> bool:
        if self.serving:
            self.failure = self.failure or f"worker {pid} {told(code)}"
            if code == WRONG and not self._proven:
                self.refused = code
                self._over.set()
            self._notice()
        return self.serving

    async def _start(self, places: TaskGroup, beside: TaskGroup) -> Child:
        child = Child(await self._nursery.bear(beside))
        self.children[child.pid] = child
        if self._farewell is not None:
            # It was being born when the others were asked.
            child.leave(self._farewell)
        places.start_soon(self._look_after, child)
        return child

    async def _look_after(self, child: Child) -> None:
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._await_boot, child)
            await child.run()
            beside.cancel_scope.cancel()
        del self.children[child.pid]
        self._notice()

    async def _await_boot(self, child: Child) -> None:
        with anyio.move_on_after(self._plan.boot) as patience:
            await child.ready.wait()
        if patience.cancelled_caught:
            _log.error("worker %d has not begun to fetch after %g s: killed", child.pid, self._plan.boot)
            child.send(signal.SIGKILL)
            return
        self._proven = True
        if self._quiet:
            child.send(signal.SIGUSR1)
        self._notice()

    async def _weigh(self, limit: int) -> None:
        while True:
            for child in self.children.values():
                if child.ready.is_set() and not child.leaving and (memory := child.memory) > limit:
                    _log.warning("worker %d holds %d MiB: replaced", child.pid, memory >> 20)
                    child.leaving = True
                    self._notice()
            # Memory can only be asked after.
            await anyio.sleep(WEIGHED_EVERY)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()

    def _notice(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        self._tell()


def _begun(child: Child) -> bool:
    return child.ready.is_set() or child.ended.is_set()


def _left(child: Child) -> bool:
    return child.leaving or child.ended.is_set()
