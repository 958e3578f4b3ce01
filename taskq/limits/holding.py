"""What it means to hold a limit: to look, to claim, to enter and to leave."""

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from msgspec import Struct

FIRST, CAP = 0.02, 0.5
"""Seconds between looks for a free place, which nobody tells of: growing, so that many who wait cost little."""

T_co = TypeVar("T_co", covariant=True)


class Held(Protocol):
    """Something that was granted."""

    async def leave(self) -> None:
        """It is over."""
        ...

    async def undo(self) -> None:
        """It came to nothing: let it be as if it had not been granted."""
        ...


class Granted(Struct, Generic[T_co], frozen=True):
    """What was taken, for who has asked."""

    given: T_co
    """What ``async with … as`` names."""
    held: Sequence[Held]
    wait: float = 0.0
    """Seconds until it counts."""


class Refused(Struct, frozen=True):
    """Nothing was taken."""

    reason: str
    after: float
    """Seconds after which it is worth another try."""
    key: str | None = None
    """Of the one limit that it was."""


@runtime_checkable
class Holding(Protocol[T_co]):
    """A limit, or several, to be held for the length of an ``async with``."""

    @property
    def wait(self) -> float:
        """Seconds that entering it may take."""
        ...

    async def soon(self) -> float | None:
        """In how many seconds its turn comes, None where nobody knows; nothing is taken."""
        ...

    async def claim(self, patience: float) -> Granted[T_co] | Refused:
        """Take it if its turn comes within so many seconds."""
        ...

    async def enter(self) -> Granted[T_co]:
        """Take it, and return when it counts; raises LimitExceeded."""
        ...

    async def __aenter__(self) -> T_co: ...
    async def __aexit__(self, *error: Any) -> None: ...
