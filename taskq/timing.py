"""When something is due: cron text or an interval, in a time zone, less the exceptions. Pure.

A tick is a whole second of the clock that all zones share. Local time has hours that never were and hours that were
twice; what is asked for at a local hour happens once all the same.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from math import floor

from msgspec import Struct

from taskq.errors import InvalidSchedule

DAY = 86_400
LONGEST = 366 * DAY
"""Seconds of the longest interval: more than a year is a date."""
_JUMPS = 20_000
"""Exceptions in a row after which nothing is taken to be left."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY}
_EVERY = re.compile(r"every (\d+) ?([smhd])")
_DATES = re.compile(r"(\d{4}-\d\d-\d\d)(?:/(\d{4}-\d\d-\d\d))?(?: every (\d+)d)?")


class Timing(Struct, frozen=True, kw_only=True):
    """When a schedule is due."""

    cron: str | None = None
    """Five fields, or six with seconds in front."""
    every: int | None = None
    """Seconds; due whenever the seconds since 1970 can be divided by it, in every process alike."""
    tz: str = "UTC"
    twice: bool = False
    """Whether a local hour that comes twice counts twice."""
    except_: tuple[str, ...] = ()
    """Dates, ranges of dates (``2026-12-24/2027-01-02``), either of them again and again (``2026-01-12/2026-01-18 every
    14d``), and cron texts, in the same zone."""

    @property
    def text(self) -> str:
        """As it was said."""
        return self.cron or f"every {self.every}s"


def make_timing(
    when: str | None,
    *,
    every: float | None = None,
    tz: str = "UTC",
    twice: bool = False,
    except_: Sequence[str] = (),
) -> Timing:
    """Checked: raises InvalidSchedule for what cannot be read, contradicts itself or is never due."""
    if (when is None) == (every is None):
        raise InvalidSchedule("say when, in one way: by cron text, 'every 10s', or every=")
    cron, seconds = _read_when(when) if when is not None else (None, every)
    if seconds is not None and (seconds != int(seconds) or not 1 <= seconds <= LONGEST):
        raise InvalidSchedule(f"every={seconds:g} s: give whole seconds, from 1 to those of a year")
    _zone(tz)
    if twice and cron is None:
        raise InvalidSchedule("twice= is about hours of a local clock, which an interval does not know")
    timing = Timing(
        cron=cron, every=None if seconds is None else int(seconds), tz=tz, twice=twice, except_=tuple(except_)
    )
    first = next(ticks(timing, datetime.now(UTC).timestamp()), None)
    if first is None:
        said = f"{cron!r} is never due" if not except_ else "its exceptions leave no tick"
        raise InvalidSchedule(f"{said}: no day in sight fits")
    return timing


def ticks(timing: Timing, after: float) -> Iterator[float]:
    """Every tick later than ``after``, in order, without the excepted ones."""
    exceptions = [_Exception(text) for text in timing.except_]
    zone = _zone(timing.tz)
    jumps = 0
    while jumps < _JUMPS:
        for tick in _all_ticks(timing, zone, after):
            end = max((end for exception in exceptions if (end := exception.end(tick, zone))), default=None)
            if end is not None:
                jumps, after = jumps + 1, max(tick, end - 1)
                break
            jumps = 0
            yield tick
        else:
            return


def passed(timing: Timing, last: float, now: float, most: int) -> tuple[list[float], bool]:
    """The ticks later than ``last`` and not later than ``now``, the newest ``most``; whether there are older ones."""
    found = list(islice(_until(timing, last, now), most + 1))
    span = 60.0
    while len(found) > most:
        # Counting all ticks of a year's outage would take a minute: look back no further than it takes.
        newest = list(_until(timing, max(last, now - span), now))
        if len(newest) >= most:
            return newest[-most:], True
        span *= 2
    return found, False


def _until(timing: Timing, last: float, now: float) -> Iterator[float]:
    return takewhile(lambda tick: tick <= now, ticks(timing, last))


def _all_ticks(timing: Timing, zone: tzinfo, after: float) -> Iterator[float]:
    if timing.every is not None:
        number = floor(after / timing.every) + 1
        while True:
            yield float(number * timing.every)
            number += 1
    assert timing.cron is not None, "make_timing() sees to one of them"  # noqa: S101
    last = after
    for tick in _local_ticks(timing.cron, zone, after, twice=timing.twice):
        if tick > last:
            last = tick
            yield tick


def _local_ticks(cron: str, zone: tzinfo, after: float, *, twice: bool) -> Iterator[float]:
    """In rising order, from ``after`` at the latest; some may be earlier, or come twice.

    Where the hour is a star, time flows on: a missing hour has no ticks, an hour that comes twice has them twice. Where
    hours are named, each happens once: a missing one at the moment that follows it.
    """
    flowing = cron.split()[-4].startswith("*")
    days = [datetime.fromtimestamp(after + days * DAY, zone).utcoffset() or timedelta() for days in (-1, 0, 1)]
    # In the second pass through an hour, and before it, what is to come may look earlier than now.
    start = datetime.fromtimestamp(floor(after), zone).replace(tzinfo=None) - (max(days) - min(days))
    waiting: list[float] = []
    for local in _matches(cron, start):
        first, second = (local.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
        missing = second < first
        if missing and flowing:
            continue
        moment = _end_of_gap(int(second), int(first), zone) if missing else first
        while waiting and waiting[0] <= moment:
            yield waiting.pop(0)
        yield moment
        if second > first and (flowing or twice):
            waiting.append(second)
    yield from waiting


def _end_of_gap(early: int, late: int, zone: tzinfo) -> float:
    """The moment at which local time jumped forward, between two others."""
    after = datetime.fromtimestamp(late, zone).utcoffset()
    moments = range(early, late + 1)
    return moments[bisect_left(moments, True, key=lambda at: datetime.fromtimestamp(at, zone).utcoffset() == after)]


def _matches(cron: str, start: datetime) -> Iterator[datetime]:
    """The local times later than ``start`` that the text describes; raises InvalidSchedule for other text."""
    # Here, because most programs have no schedules.
    from cronsim import CronSim, CronSimError

    try:
        yield from CronSim(cron, start)
    except CronSimError as error:
        raise InvalidSchedule(
            f"{cron!r} is no cron text ({error}): write five fields, minute, hour, day, month and weekday, "
            "or six with the seconds in front"
        ) from error
    except OverflowError:
        return  # The calendar ends with the year 9999.


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError, TypeError) as error:
        raise InvalidSchedule(
            f"there is no time zone {name!r}: write one like 'Europe/Berlin'; where the system has no time zones, "
            "install taskq-async[tzdata]"
        ) from error


def _read_when(when: str) -> tuple[str | None, int | None]:
    found = _EVERY.fullmatch(when.strip())
    if found is not None:
        return None, int(found[1]) * _UNITS[found[2]]
    if len(when.split()) not in (5, 6):
        raise InvalidSchedule(f"{when!r}: write cron text like '*/5 * * * *', or 'every 10s', 'every 2h'")
    return " ".join(when.split()), None


class _Exception:
    """What takes ticks away: days, or the local times of a cron text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._days = _days(text)
        *times, _, _, _ = text.split() if self._days is None else ["*", "*", "*"]
        self._whole_days = set(times) <= {"*"}
        self._seconds = len(times) == 3
        if self._days is None:
            next(_matches(text, datetime(2000, 1, 1)), None)  # noqa: DTZ001 - local times have no zone

    def end(self, tick: float, zone: tzinfo) -> float | None:
        """When a tick is excepted, the earliest moment at which the next one may not be; else None."""
        local = datetime.fromtimestamp(tick, zone).replace(tzinfo=None)
        if self._days is not None:
            first, length, period = self._days
            days = (local.date() - first).days
            if days < 0 or (days % period if period else days) >= length:
                return None
        else:
            step = local if self._seconds else local.replace(second=0)
            if next(_matches(self._text, step - timedelta(seconds=1)), None) != step:
                return None
        if not self._whole_days:
            return tick + 1 if self._seconds else tick - local.second + 60
        midnight = datetime.combine(local.date() + timedelta(days=1), datetime.min.time(), zone)
        return floor(min(midnight.timestamp(), midnight.replace(fold=1).timestamp()))


def _days(text: str) -> tuple[date, int, int] | None:
    """The first day, how many there are, and after how many days they come again, 0: never. None for cron text."""
    found = _DATES.fullmatch(text)
    if found is None:
        if len(text.split()) in (5, 6):
            return None
        raise InvalidSchedule(f"exception {text!r}: write a date, two dates with a slash between, or cron text")
    try:
        first, last = date.fromisoformat(found[1]), date.fromisoformat(found[2] or found[1])
    except ValueError as error:
        raise InvalidSchedule(f"exception {text!r}: {error}") from error
    if last < first:
        raise InvalidSchedule(f"exception {text!r}: it ends before it begins")
    length, period = (last - first).days + 1, int(found[3] or 0)
    if found[3] and period <= length:
        raise InvalidSchedule(f"exception {text!r}: it comes again before a day is left: say more than every {length}d")
    return first, length, period
