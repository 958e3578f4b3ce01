"""Lines of a job, so many bytes of them at most: pure."""

from collections import deque
from collections.abc import Iterable

import msgspec
from msgspec import Struct

LONGEST = 2000
"""Characters of a line."""
_OVERHEAD = 40
"""Bytes that a line takes beside its text and its logger's name, about."""


class Line(Struct, frozen=True, array_like=True):
    """What was logged or printed, one line of it."""

    at: float
    """Seconds since the epoch, by the worker's clock."""
    attempt: int
    source: str
    """The level of a log record, ``stdout`` or ``stderr``."""
    logger: str
    text: str
    """As it came: whoever shows it takes out what could drive a terminal."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.text.encode()) + len(self.logger) + _OVERHEAD


class Captured(Struct, frozen=True, array_like=True):
    """What is stored of a job's lines."""

    lines: list[Line]
    first: int = 0
    """How many gave way to these."""
    since: float = 0.0
    """When the run began that wrote them last, by the backend's clock."""
    open: bool = True
    """More may come."""

    @property
    def behind(self) -> int:
        """The number of the line that comes next."""
        return self.first + len(self.lines)


class Ring:
    """The last lines that fit into ``limit`` bytes."""

    def __init__(self, limit: int, lines: Iterable[Line] = (), first: int = 0) -> None:
        self._limit = limit
        self._size = 0
        self.lines: deque[Line] = deque()
        self.first = first
        """How many gave way."""
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        """Take in a line; the oldest give way to it, one too long alone gives way itself."""
        self.lines.append(line)
        self._size += line.size
        while self._size > self._limit:
            self._size -= self.lines.popleft().size
            self.first += 1

    @property
    def behind(self) -> int:
        """The number of the line that comes next."""
        return self.first + len(self.lines)

    def following(self, earlier: Captured) -> "Ring":
        """These lines behind those of earlier runs; lines that gave way here had displaced all of those."""
        if self.first:
            return Ring(self._limit, self.lines, earlier.behind + self.first)
        return Ring(self._limit, [*earlier.lines, *self.lines], earlier.first)


def sendable(text: str) -> str:
    """At most ``LONGEST`` characters that can be stored."""
    return storable(text[:LONGEST])


def storable(text: str) -> str:
    """Text without halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode()


def read(value: bytes | None) -> Captured:
    """What a key of the Store holds; nothing when that cannot be read."""
    if value is None:
        return Captured([])
    try:
        return msgspec.json.decode(value, type=Captured)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Captured([])
