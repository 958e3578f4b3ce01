"""One worker process, as its supervisor sees it."""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio
from anyio.abc import Process

from taskq.worker.memory import memory_of
from taskq.worker.notify import GRACE, SOCKET

SUPERVISED = "TASKQ_SUPERVISED"
"""Set in the environment of a worker whose stdin ends with its supervisor."""
MAKE_WAY = signal.SIGUSR2
"""Asks a worker to drain without a limit: whatever runs may finish."""


class Child:
    """A process from its start to its end."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid
        self.code: int | None = None
        """Its exit code, once it has ended."""
        self.ready = anyio.Event()
        """It has begun to fetch."""
        self.ended = anyio.Event()
        self.leaving = False
        """It is not to fetch any more: its place is free."""
        self.grace = 0.0
        """Seconds it may take to end, as it said itself."""

    @classmethod
    async def start(cls, command: Sequence[str], notify_socket: str) -> "Child":
        """A new process, in a group of its own: a terminal's Ctrl-C would reach it twice, and the second one leaves
        at once. Its stdin ends with this process, and then it drains: no worker outlives its supervisor for long."""
        environment = {**os.environ, SOCKET: notify_socket, SUPERVISED: "1"}
        process = await anyio.open_process(command, stdout=None, stderr=None, env=environment, start_new_session=True)
        return cls(process)

    async def run(self) -> None:
        """Wait for its end."""
        async with self._process:
            self.code = await self._process.wait()
        self.ended.set()

    def hear(self, fields: Mapping[str, str]) -> None:
        """Take note of what it tells."""
        if GRACE in fields:
            self.grace = float(fields[GRACE])
        if "READY" in fields:
            self.ready.set()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.code is None:
            self._process.send_signal(number)

    def leave(self, number: signal.Signals) -> None:
        """Ask it to end: within its grace, or to make way, however long that takes."""
        self.leaving = True
        self.send(number)

    async def tell_that_it_took_over(self) -> None:
        """Let it note that its code serves now."""
        assert self._process.stdin is not None, "it was started with one"  # noqa: S101
        # It may have died meanwhile.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._process.stdin.send(b"\n")

    @property
    def memory(self) -> int:
        """Bytes of resident memory; 0 when it has ended, or where the system does not tell."""
        return memory_of(str(self.pid))
