"""Where a supervisor gets processes from: each started for itself, or forked from one that has imported the app."""

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import anyio
from anyio.abc import Process, TaskGroup

from taskq.worker.memory import memory_of
from taskq.worker.notify import SOCKET
from taskq.worker.preload import CODE, FORK, GONE, MOTHER, PRELOAD, TOOK_OVER

SUPERVISED = "TASKQ_SUPERVISED"
"""Set in the environment of a worker whose stdin ends with its supervisor."""
UNKNOWN = 1
"""The exit code of a worker whose end nobody saw, because who would have told of it had ended before."""
LOOK_EVERY = 0.1

_log = logging.getLogger("taskq.supervisor")


class Body(Protocol):
    """A worker's process, however it was born."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    async def wait(self) -> int:
        """Wait for its end, and answer its exit code."""
        ...

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        ...

    async def tell_that_it_took_over(self) -> None:
        """Let it, or one of its siblings, note that their code serves now."""
        ...


class Nursery:
    """Bears the processes of one generation."""

    def __init__(self, command: Sequence[str], notify_socket: str, *, preload: bool, boot: float) -> None:
        self._command = command
        self._socket = notify_socket
        self._preload = preload
        self._boot = boot
        self._mother: Mother | None = None
        self._one_by_one = anyio.Lock()
        self._stopped = False

    async def bear(self, group: TaskGroup) -> Body:
        """A new process; one that has ended already when it could not be born."""
        if not self._preload:
            return Spawned(await self._start({}))
        async with self._one_by_one:
            if self._mother is None or self._mother.code is not None:
                self._mother = Mother(await self._start({PRELOAD: "1"}))
                group.start_soon(self._mother.run)
            if self._stopped:
                self._mother.send_signal(signal.SIGTERM)
            return await self._mother.bear(self._boot)

    def hear(self, fields: Mapping[str, str]) -> None:
        """Take note of what any process tells."""
        if self._mother is not None:
            self._mother.hear(fields)

    def stop(self) -> None:
        """Keep nobody waiting for a birth."""
        self._stopped = True
        if self._mother is not None and self._one_by_one.locked():
            self._mother.send_signal(signal.SIGTERM)

    async def _start(self, environment: Mapping[str, str]) -> Process:
        # In a group of its own: a terminal's Ctrl-C would reach it twice, and the second one leaves at once. Its stdin
        # ends with this process, and then it drains: no worker outlives its supervisor for long.
        environment = {**os.environ, SOCKET: self._socket, SUPERVISED: "1", **environment}
        return await anyio.open_process(
            self._command, stdout=None, stderr=None, env=environment, start_new_session=True
        )


class Spawned:
    """A process that was started for itself."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    async def wait(self) -> int:
        """Wait for its end."""
        async with self._process:
            return await self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def tell_that_it_took_over(self) -> None:
        """By its stdin."""
        await _write(self._process, TOOK_OVER)


class Mother:
    """A process that has imported the app, as its supervisor sees it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.code: int | None = None
        """Its exit code, once it has ended."""
        self._living: dict[int, Forked] = {}
        self._born: list[Forked] = []
        """Whom nobody has taken over yet."""
        self._changed = anyio.Event()

    async def run(self) -> None:
        """Wait for its end."""
        async with self._process:
            self.code = await self._process.wait()
        self._notice()

    async def bear(self, patience: float) -> "Forked":
        """A fork of it; when it ends instead, one that has ended like it."""
        await self.ask(FORK)
        with anyio.move_on_after(patience) as waiting:
            await self._until_born()
        if waiting.cancelled_caught:
            _log.error("the app was not imported after %g s: killed", patience)
            self.send_signal(signal.SIGKILL)
            await self._until_born()
        if self._born:
            return self._born.pop()
        stillborn = Forked(self._process.pid, self)
        stillborn.end(UNKNOWN if self.code is None else self.code)
        return stillborn

    def hear(self, fields: Mapping[str, str]) -> None:
        """Take note of births and ends."""
        sender = int(fields.get("MAINPID", "0"))
        if fields.get(MOTHER) == str(self._process.pid):
            self._add(sender)
        elif GONE in fields and sender == self._process.pid:
            pid = int(fields[GONE])
            # Perhaps it was killed before it told that it was there.
            (self._living.get(pid) or self._add(pid)).end(int(fields[CODE]))
            del self._living[pid]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.code is None:
            self._process.send_signal(number)

    async def ask(self, what: bytes) -> None:
        """Ask it for something, if it still runs."""
        await _write(self._process, what)

    async def until_ended(self) -> None:
        """Wait for its end."""
        while self.code is None:
            await self._changed.wait()

    async def _until_born(self) -> None:
        while not self._born and self.code is None:
            await self._changed.wait()

    def _add(self, pid: int) -> "Forked":
        child = self._living[pid] = Forked(pid, self)
        self._born.append(child)
        self._notice()
        return child

    def _notice(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class Forked:
    """A process that was forked from its mother, who tells of its end."""

    def __init__(self, pid: int, mother: Mother) -> None:
        self.pid = pid
        self._mother = mother
        self._code: int | None = None
        self._ended = anyio.Event()

    def end(self, code: int) -> None:
        """Take note of its end."""
        self._code = code
        self._ended.set()

    async def wait(self) -> int:
        """Wait for its end."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._look_after)
            await self._ended.wait()
            group.cancel_scope.cancel()
        return UNKNOWN if self._code is None else self._code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def tell_that_it_took_over(self) -> None:
        """By its mother's stdin."""
        await self._mother.ask(TOOK_OVER)

    async def _look_after(self) -> None:
        await self._mother.until_ended()
        # One that waits for its new parent to take note holds nothing.
        while memory_of(str(self.pid)):  # noqa: ASYNC110 - the end of somebody else's child can only be asked after
            await anyio.sleep(LOOK_EVERY)
        self._ended.set()


async def _write(process: Process, what: bytes) -> None:
    assert process.stdin is not None, "it was started with one"  # noqa: S101
    # It may have ended meanwhile.
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.send(what)
