"""``taskq worker --reload``: a parent that starts the worker anew whenever a Python file changes."""

import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from subprocess import DEVNULL

import anyio
import click
from anyio.abc import Process

from taskq.worker.signals import HEEDED

_log = logging.getLogger("taskq.reload")


def run_reloading(arguments: Sequence[str]) -> int:
    """Run ``taskq ARGUMENTS`` anew after every change below the current directory; answers its last exit code.

    The old one is drained first, so that no two run at once. One that failed is started again by the next change.
    """
    try:
        import watchfiles  # noqa: F401 # pyright: ignore[reportUnusedImport] - an extra
    except ImportError:
        raise click.UsageError("--reload needs watchfiles: pip install 'taskq-async[reload]'") from None
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # What changed is told below, by name.
    return anyio.run(Reloader([sys.executable, "-m", "taskq.cli", *arguments], Path.cwd()).run)


class Reloader:
    """One child process at a time."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._command = command
        self._directory = directory
        self._process: Process | None = None
        self._changed = anyio.Event()
        self._stopping = False
        self._code = 0

    async def run(self) -> int:
        """Start, and start again, until the child ends by itself or is asked to."""
        async with anyio.create_task_group() as beside:
            with anyio.open_signal_receiver(*HEEDED) as received:
                beside.start_soon(self._forward, received)
                beside.start_soon(self._watch)
                await self._run()
            beside.cancel_scope.cancel()
        return self._code if self._code >= 0 else 128 - self._code

    async def _run(self) -> None:
        while True:
            self._changed = anyio.Event()
            # In a group of its own: a terminal's Ctrl-C would reach it twice, and the second one leaves at once.
            child = await anyio.open_process(
                self._command, stdin=DEVNULL, stdout=None, stderr=None, start_new_session=True
            )
            async with child as self._process:
                self._code = await child.wait()
            self._process = None
            if self._stopping or (self._code == 0 and not self._changed.is_set()):
                return
            if not self._changed.is_set():
                _log.warning("the worker ended with code %d; it starts again when a file changes", self._code)
                await self._changed.wait()
                if self._stopping:
                    return

    async def _forward(self, received: AsyncIterator[signal.Signals]) -> None:
        async for number in received:
            self._stopping |= number in (signal.SIGTERM, signal.SIGINT)
            if self._process is not None:
                self._process.send_signal(number)
            elif self._stopping:
                self._changed.set()

    async def _watch(self) -> None:
        from watchfiles import PythonFilter, awatch  # pyright: ignore[reportUnknownVariableType] - its stop_event

        async for changes in awatch(self._directory, watch_filter=PythonFilter()):
            files = sorted({Path(path).name for _, path in changes})
            _log.info("%s changed: starting anew", ", ".join(files))
            if self._process is not None and not self._changed.is_set() and not self._stopping:
                self._process.send_signal(signal.SIGTERM)
            self._changed.set()
