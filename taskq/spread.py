"""When each of many calls runs: what is deferred in a moment need not begin in one."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import count, repeat

from msgspec import Struct
from msgspec.structs import replace

from taskq.errors import ConfigError
from taskq.job import Job

# Each further multiple of it, without its whole part, falls into the largest gap that those before have left.
_GOLDEN = (5**0.5 - 1) / 2


class Spread(Struct, frozen=True, kw_only=True):
    """``spread=Spread(rate=50)`` or ``spread=Spread(over=3600)``: for ``defer_many``, ``defer_each``, a batch.

    ``rate``: so many begin in a second, in the order of the calls. ``over``: evenly over so many seconds, however many
    calls there are, in no order. The same calls are spread the same way each time, each counted from its own ``delay``
    or ``run_at``. It says when a job may begin; those that wait for a worker then are spread no more (``RateLimit``
    is for that). Raises ConfigError for anything but one positive number.
    """

    over: float | timedelta | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if (self.over is None) == (self.rate is None):
            raise ConfigError("Spread: give over= (seconds, or a timedelta) or rate= (calls a second), one of both")
        given = self.rate if self.over is None else self._seconds
        if isinstance(given, bool) or not isinstance(given, int | float) or not 1e-6 <= given <= 1e9:
            raise ConfigError(f"Spread({self.over if self.rate is None else self.rate!r}): give a number above 0")

    @property
    def _seconds(self) -> float | None:
        return self.over.total_seconds() if isinstance(self.over, timedelta) else self.over

    def offsets(self) -> Iterator[float]:
        """Seconds for each call, without end."""
        if self._seconds is not None:
            return (self._seconds * (number * _GOLDEN % 1) for number in count())
        assert self.rate is not None, "one of both is given"  # noqa: S101
        return (number / self.rate for number in count())


def offsets_of(spread: Spread | None) -> Iterator[float]:
    """Those of a spread, or none for each call."""
    return repeat(0.0) if spread is None else spread.offsets()


def later(job: Job, seconds: float) -> Job:
    """The job, so much later."""
    if not seconds:
        return job
    if job.run_at is not None:
        return replace(job, run_at=job.run_at + seconds)
    return replace(job, delay=job.delay + seconds)
