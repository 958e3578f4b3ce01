"""What clients and workers lived through: the journals that :mod:`taskq.testing.verdict` judges.

Every process writes one: lines that are only ever appended, each flushed at once, so that what was written survives the
process. Moments are those of the monotonic clock, which all processes of a machine share; the wall clock is for
readers.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from taskq.job import Ack, DeadLetter, Settlement

How = Literal["ack", "dead-letter", "nack", "uncounted nack"]
Answer = Literal["ok", "fail", "unknown"]


class Invoked(Struct, frozen=True, tag=True):
    """A client is about to enqueue these jobs."""

    jobs: Sequence[str]


class Answered(Struct, frozen=True, tag=True):
    """What the client was told; ``unknown`` when the call raised."""

    jobs: Sequence[str]
    answer: Answer


class Asking(Struct, frozen=True, tag=True):
    """A worker asks for jobs from now on."""


class Fetched(Struct, frozen=True, tag=True):
    """A delivery reached a worker."""

    job: str
    fence: int
    attempt: int
    losses: int
    asked: float
    """When the fetch was called: the lease begins then or later."""


class Extended(Struct, frozen=True, tag=True):
    """The broker confirmed leases of these jobs and fences."""

    held: Sequence[tuple[str, int]]
    asked: float


class Started(Struct, frozen=True, tag=True):
    """A handler began."""

    job: str
    fence: int


class Effect(Struct, frozen=True, tag=True):
    """The handler has done what it is there for."""

    job: str
    fence: int


class Ended(Struct, frozen=True, tag=True):
    """The handler's last line: nothing of this run happens any more."""

    job: str
    fence: int
    returned: bool = True


class Settling(Struct, frozen=True, tag=True):
    """A worker is about to end a lease."""

    job: str
    fence: int
    how: How


class Settled(Struct, frozen=True, tag=True):
    """What it was told."""

    job: str
    fence: int
    accepted: bool


class Killed(Struct, frozen=True, tag=True):
    """A process is about to be killed at a named point: ``process``, or the one that writes this."""

    point: str
    process: str = ""


Happened = Invoked | Answered | Asking | Fetched | Extended | Started | Effect | Ended | Settling | Settled | Killed


class Line(Struct, frozen=True, array_like=True):
    """One line of a journal."""

    at: float
    """By the machine's monotonic clock."""
    wall: float
    what: Happened


def how(settlement: Settlement) -> How:
    """The kind of a settlement."""
    match settlement:
        case Ack():
            return "ack"
        case DeadLetter():
            return "dead-letter"
        case _:
            return "nack" if settlement.counted else "uncounted nack"


class Journal:
    """Appends to a file of its own; any thread may write. A line that was written outlives its process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, *happened: Happened) -> None:
        """Append a line for each, in one write."""
        at, wall = time.monotonic(), time.time()
        lines = [msgspec.json.encode(Line(at, wall, what)) + b"\n" for what in happened]
        os.write(self._file, b"".join(lines))

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


def read(path: Path) -> list[Line]:
    """The lines of a journal; what a kill left of its last line is none."""
    decoder = msgspec.json.Decoder(Line)
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [decoder.decode(line) for line in whole.splitlines()]


def read_all(directory: Path) -> dict[str, list[Line]]:
    """Every journal of a directory (``*.journal``), by the name of its process."""
    return {path.stem: read(path) for path in sorted(directory.glob("*.journal"))}
