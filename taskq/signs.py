"""What passes between a worker and a job's own process while it runs: that it is to stop, and that it is alive."""

import os
import struct
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

IN_MEMORY = "/dev/shm"  # noqa: S108 - mkstemp makes the file
"""Where Linux keeps files in memory, also where nothing else may be written; elsewhere they are temporary ones."""

_ALIVE = struct.Struct("=d")
_STOP_AT, _ALIVE_AT = 0, 8


class Signs:
    """A few bytes of a file that both have open."""

    def __init__(self, file: int) -> None:
        self._file = file

    def stop(self) -> None:
        """Ask the job to stop."""
        os.pwrite(self._file, b"\1", _STOP_AT)

    @property
    def stopping(self) -> bool:
        """Whether the job was asked to stop."""
        return os.pread(self._file, 1, _STOP_AT) == b"\1"

    def beat(self) -> None:
        """Say that the job is alive."""
        os.pwrite(self._file, _ALIVE.pack(time.monotonic()), _ALIVE_AT)

    @property
    def silence(self) -> float:
        """Seconds since the job last said that it is alive."""
        at: float = _ALIVE.unpack(os.pread(self._file, _ALIVE.size, _ALIVE_AT))[0]
        return max(0.0, time.monotonic() - at)


@contextmanager
def shared_signs() -> Generator[tuple[str, Signs]]:
    """New signs, and the path by which another process can join in, once."""
    file, path = tempfile.mkstemp(prefix="taskq-", dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None)
    try:
        signs = Signs(file)
        os.pwrite(file, bytes(_ALIVE_AT), 0)
        signs.beat()
        yield path, signs
    finally:
        os.close(file)
        Path(path).unlink(missing_ok=True)


@contextmanager
def joined_signs(path: str) -> Generator[Signs]:
    """The signs that a worker shares under this path."""
    file = os.open(path, os.O_RDWR)
    # Nothing is left behind then, however the two processes end.
    Path(path).unlink()
    try:
        yield Signs(file)
    finally:
        os.close(file)
