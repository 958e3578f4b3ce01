"""Keeps worker processes running: never fetches itself, and never imports the app.

It hands signals on, and rolls out new code: the new processes have to prove themselves before the old ones make way,
which then finish what they run, however long that takes.
"""

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Literal

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from taskq.worker.child import Child
from taskq.worker.generation import Generation, Plan
from taskq.worker.notify import listening, notify, notify_stopping

HEEDED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP),
    *(signal.SIGUSR1, signal.SIGCONT, signal.SIGTTIN, signal.SIGUSR2),
)

KILLED_AFTER = 2.0
"""Seconds beyond its grace that a worker has to end: it leaves by itself before, unless its event loop stands still."""

_log = logging.getLogger("taskq.supervisor")


Phase = Literal["starting", "serving", "rolling out", "stopping"]


class State(Struct, frozen=True, kw_only=True):
    """How it stands, for whoever started a rollout."""

    pid: int
    phase: Phase
    generation: int
    rollouts: int
    """Ended so far, well or not."""
    failure: str | None
    """Why the last one failed."""
    workers: Sequence[int]


class Supervisor:
    """A parent of workers."""

    def __init__(self, plan: Plan, *, tell: Callable[[State], None]) -> None:
        self._plan = plan
        self._tell = tell
        """Called with every new state."""
        self._generations: list[Generation] = []
        """Those with a process that has not ended; the one that serves stands first."""
        self._socket = ""
        self._number = 0
        self._stopping = False
        self._rolling = False
        self._rollouts = 0
        self._failure: str | None = None
        self._code = 0

    async def run(self) -> int:
        """Keep them running until asked to stop, or until they end by themselves; answers the exit code."""
        async with listening() as (self._socket, heard), anyio.create_task_group() as beside:
            with anyio.open_signal_receiver(*HEEDED) as received:
                beside.start_soon(self._listen, heard)
                async with anyio.create_task_group() as group:
                    beside.start_soon(self._obey, received, group, beside)
                    group.start_soon(self._begin, self._start_generation(group))
            beside.cancel_scope.cancel()
        return self._code

    def _start_generation(self, group: TaskGroup) -> Generation:
        self._number += 1
        generation = Generation(self._number, self._plan, self._socket, changed=self._report)
        self._generations.append(generation)
        group.start_soon(self._run_generation, generation)
        return generation

    async def _run_generation(self, generation: Generation) -> None:
        await generation.run()
        self._generations.remove(generation)

    async def _begin(self, first: Generation) -> None:
        if await first.begun():
            _log.info("%d workers serve", self._plan.processes)
            notify(READY=1)
        elif first.refused is not None:
            _log.error("%s before it began to work: giving up", first.failure)
            self._code = first.refused
            first.stop(signal.SIGTERM)

    async def _listen(self, heard: AsyncIterator[Mapping[str, str]]) -> None:
        async for fields in heard:
            for generation in self._generations:
                generation.hear(fields)

    async def _obey(self, received: AsyncIterator[signal.Signals], group: TaskGroup, beside: TaskGroup) -> None:
        async for number in received:
            match number:
                case signal.SIGTERM | signal.SIGINT:
                    self._stop(number, beside)
                case signal.SIGUSR2 if self._stopping or self._rolling:
                    _log.warning("USR2: %s already", "stopping" if self._stopping else "rolling out")
                case signal.SIGUSR2:
                    self._rolling = True
                    group.start_soon(self._roll_out, self._start_generation(group))
                case _:
                    for generation in self._generations:
                        generation.send(number)

    def _stop(self, number: signal.Signals, beside: TaskGroup) -> None:
        for generation in self._generations:
            generation.stop(number)
        if self._stopping:
            # Each worker leaves at once.
            self._code = 128 + number
        else:
            self._stopping = True
            _log.info("%s: draining", number.name)
            patience = KILLED_AFTER + max((child.grace for child in self._children()), default=0.0)
            notify_stopping(patience)
            beside.start_soon(self._kill_what_stays, patience)
        self._report()

    async def _kill_what_stays(self, patience: float) -> None:
        """Cancelled when all have ended."""
        await anyio.sleep(patience)
        for child in self._children():
            _log.warning("worker %d does not end: killed; its leases end by themselves", child.pid)
            child.send(signal.SIGKILL)

    def _children(self) -> Sequence[Child]:
        return [child for generation in self._generations for child in generation.children.values()]

    async def _roll_out(self, new: Generation) -> None:
        """New processes start beside the old; whichever side does not serve makes way."""
        old = self._generations[0]
        _log.info("generation %d starts beside %d", new.number, old.number)
        self._report()
        proven = await new.proven()
        if self._stopping:
            return
        if proven:
            self._generations.remove(new)
            self._generations.insert(0, new)
            memory = sum(child.memory for each in (old, new) for child in each.children.values())
            _log.info("generation %d serves, %d makes way; together %d MiB", new.number, old.number, memory >> 20)
            old.make_way()
            await new.tell_that_it_took_over()
        else:
            _log.error("generation %d failed: %s; %d goes on", new.number, new.failure, old.number)
            new.make_way()
        self._failure, self._rolling, self._rollouts = new.failure, False, self._rollouts + 1
        self._report()

    @property
    def _phase(self) -> Phase:
        if self._stopping:
            return "stopping"
        if self._rolling:
            return "rolling out"
        return "serving" if self._generations[0].ready else "starting"

    def _report(self) -> None:
        if self._generations:
            workers = [pid for generation in self._generations for pid in generation.children]
            state = State(
                pid=os.getpid(),
                phase=self._phase,
                generation=self._generations[0].number,
                rollouts=self._rollouts,
                failure=self._failure,
                workers=sorted(workers),
            )
            self._tell(state)
