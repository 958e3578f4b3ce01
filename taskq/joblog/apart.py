"""Lines of a handler in a process of its own: it writes them into a named pipe, and its worker reads them as they come.

A pipe keeps what a process that was killed had said, and one that says more than can be read waits.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from taskq.defaults import MOST_CAPTURED
from taskq.joblog.lines import storable
from taskq.joblog.sources import Sink, capturing, hear_streams, mark_records

_CHUNK = 1 << 16


class Pipe(Struct, frozen=True):
    """How a process of its own tells what a job says."""

    path: str
    level: int
    """From which on the worker's root logger lets records through."""


class _Said(Struct, frozen=True, array_like=True, omit_defaults=True):
    """One call of a :class:`Sink`, a line of JSON."""

    source: str
    text: str
    at: float | None = None
    """None: it was printed."""
    logger: str = ""


@contextmanager
def hearing(path: str) -> Generator[Pipe | None]:
    """A pipe under this path for the process of the job that runs here; None when nobody wants to hear."""
    sink = capturing.get()
    if sink is None:
        yield None
        return
    os.mkfifo(path, 0o600)
    try:
        # For both, so that it has no end when the other one has not come yet, or has gone.
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        loop, reader = asyncio.get_running_loop(), _Reader(file, sink)
        loop.add_reader(file, reader.read)
        try:
            yield Pipe(path, logging.getLogger().level)
        finally:
            loop.remove_reader(file)
            while reader.read():
                pass
            os.close(file)
    finally:
        Path(path).unlink(missing_ok=True)


@contextmanager
def telling(pipe: Pipe | None) -> Generator[None]:
    """In the job's own process: what it logs and prints goes into the pipe."""
    mark_records()
    file = None if pipe is None else _opened(pipe.path)
    if pipe is None or file is None:
        yield
        return
    hear_streams()
    root = logging.getLogger()
    if not root.handlers:
        # Nobody has set up logging here: what the worker lets through is meant.
        root.setLevel(pipe.level)
    teller = _Teller(file)
    token = capturing.set(teller)
    try:
        yield
    finally:
        capturing.reset(token)
        teller.close()


def _opened(path: str) -> int | None:
    """The pipe to write to; None when the worker has gone."""
    try:
        # Without a reader it would be waited for.
        file = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        # Nothing is left behind then, however the two processes end.
        Path(path).unlink()
    except OSError:
        return None
    os.set_blocking(file, True)
    return file


class _Teller:
    """A sink in the job's process; any thread may say something."""

    def __init__(self, file: int) -> None:
        self._file: int | None = file
        # A signal's handler may have something to say in the middle of it.
        self._lock = threading.RLock()

    def add(self, at: float, source: str, logger: str, text: str) -> None:
        self._tell(_Said(source, storable(text[-MOST_CAPTURED:]), at, storable(logger)))

    def write(self, stream: str, text: str) -> None:
        self._tell(_Said(stream, storable(text[-MOST_CAPTURED:])))

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _tell(self, said: _Said) -> None:
        left = memoryview(msgspec.json.encode(said) + b"\n")
        # The worker may have gone, and the run be over.
        with self._lock, suppress(OSError):
            while left and self._file is not None:
                left = left[os.write(self._file, left) :]


class _Reader:
    """Hands on what comes through the pipe."""

    def __init__(self, file: int, sink: Sink) -> None:
        self._file = file
        self._sink = sink
        self._rest = b""

    def read(self) -> bool:
        """Hand on what is there; False: nothing was."""
        try:
            data = os.read(self._file, _CHUNK)
        except BlockingIOError:
            return False
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            # Two may have written at once where the job's process has forked.
            with suppress(msgspec.MsgspecError):
                self._hand_on(msgspec.json.decode(line, type=_Said))
        return True

    def _hand_on(self, said: _Said) -> None:
        if said.at is None:
            self._sink.write(said.source, said.text)
        else:
            self._sink.add(said.at, said.source, said.logger, said.text)
