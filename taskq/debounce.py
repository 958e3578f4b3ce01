"""Once, after it has become quiet: the calls of a burst replace each other, and the last one runs."""

from datetime import timedelta
from math import inf
from typing import TypeGuard

import msgspec
from msgspec import Struct

from taskq.errors import ConfigError
from taskq.job import Job
from taskq.store import Store


class Debounce(Struct, frozen=True):
    """``debounce=Debounce(5, at_most=60)``: run once no call has come for 5 seconds, or a minute after the first one.

    Raises ConfigError for times that make no sense.
    """

    quiet: float | timedelta
    at_most: float | timedelta = inf

    def __post_init__(self) -> None:
        quiet, at_most = self.seconds
        if not 0 < quiet < 1e9 or not quiet <= at_most:
            raise ConfigError(f"{self!r}: give seconds of more than 0, and in at_most no less than in quiet")

    @property
    def seconds(self) -> tuple[float, float]:
        """Both times in seconds."""
        return _seconds(self.quiet), _seconds(self.at_most)


def bounded(debounce: Debounce | None) -> TypeGuard[Debounce]:
    """Whether a burst has an end that a Store must remember."""
    return debounce is not None and debounce.seconds[1] < inf


async def in_its_burst(job: Job, debounce: Debounce, store: Store) -> Job:
    """The job with the unique key of its burst, and due at its end: a get and a swap, more where calls race.

    The key remembers when the burst began, and ends with it. Each burst has a unique key of its own, so that what is
    due by ``at_most`` cannot be put off by the next burst.
    """
    quiet, at_most = debounce.seconds
    name = f"debounce:{job.queue}:{job.unique}"
    while True:
        entry = await store.get(name)
        began = entry.now if entry.value is None else float(entry.value)
        if entry.now >= began + at_most:
            began = entry.now
        if await store.swap(name, entry.value, repr(began).encode(), ttl=quiet):
            delay = min(quiet, began + at_most - entry.now)
            return msgspec.structs.replace(job, unique=f"{job.unique}@{began!r}", delay=delay)


def _seconds(value: object) -> float:
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(number, int | float) or isinstance(number, bool):
        raise ConfigError(f"debounce={value!r}: give seconds, a timedelta, or Debounce(seconds, at_most=...)")
    return number
