"""Where a fetch enters the lines, while something keeps what is over from being removed."""

from time import monotonic

_MANY = 2000
_REST = 9
"""Times what a walk from the start took, without another: a tenth of the time at most goes to them."""


class Marks:
    """What the last fetch of a process said about the lines.

    A fetch with marks may miss a job that was put before them by a transaction that took long or by another process.
    One without them misses nothing: there are marks only as long as those that came before were slow.
    """

    def __init__(self) -> None:
        self._marks: str | None = None
        self._until = 0.0

    def given(self) -> str | None:
        """What the next fetch is given; None lets it walk the lines from their starts."""
        return self._marks if monotonic() < self._until else None

    def heard(self, given: str | None, passed: int, marks: str | None, took: float) -> None:
        """A fetch that was given these has passed over so many entries that are over, and says where to go on."""
        if given is None:
            self._until = monotonic() + took * _REST if passed > _MANY else 0.0
        self._marks = marks
