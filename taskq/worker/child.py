"""One worker process, as its supervisor sees it."""

import signal
from collections.abc import Mapping

import anyio

from taskq.worker.memory import memory_of
from taskq.worker.notify import GRACE
from taskq.worker.nursery import Body

MAKE_WAY = signal.SIGUSR2
"""Asks a worker to drain without a limit: whatever runs may finish."""


class Child:
    """A process from its start to its end."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self.pid = body.pid
        self.code: int | None = None
        """Its exit code, once it has ended."""
        self.ready = anyio.Event()
        """It has begun to fetch."""
        self.ended = anyio.Event()
        self.leaving = False
        """It is not to fetch any more: its place is free."""
        self.grace = 0.0
        """Seconds it may take to end, as it said itself."""

    async def run(self) -> None:
        """Wait for its end."""
        self.code = await self._body.wait()
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
            self._body.send_signal(number)

    def leave(self, number: signal.Signals) -> None:
        """Ask it to end: within its grace, or to make way, however long that takes."""
        self.leaving = True
        self.send(number)

    async def tell_that_it_took_over(self) -> None:
        """Let it, or one of its siblings, note that their code serves now."""
        await self._body.tell_that_it_took_over()

    @property
    def memory(self) -> int:
        """Bytes of resident memory; 0 when it has ended, or where the system does not tell."""
        return memory_of(str(self.pid))
