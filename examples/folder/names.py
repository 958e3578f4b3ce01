"""What the name of a job's file tells, so that one rename is one change of state."""

from typing import NamedTuple, Self
from urllib.parse import quote, unquote

_HIGHEST = 1 << 31


class Name(NamedTuple):
    """All that changes in a job's life; as texts, names sort by priority, then by moment."""

    priority: int
    due: int
    """In nanoseconds since the epoch, as all moments here."""
    place: int
    """Among the jobs of one call."""
    expires: int
    """0 for never."""
    ends: int
    """Counted ends so far."""
    losses: int
    fence: int
    job: str
    """Its id."""

    def written(self) -> str:
        numbers = f"{_HIGHEST - self.priority:010d},{self.due:020d},{self.place:05d},{self.expires}"
        return f"{numbers},{self.ends},{self.losses},{self.fence},{quote(self.job, safe='')}"

    @classmethod
    def read(cls, text: str) -> Self:
        *numbers, job = text.split(",")
        rank, due, place, expires, ends, losses, fence = map(int, numbers)
        return cls(_HIGHEST - rank, due, place, expires, ends, losses, fence, unquote(job))
