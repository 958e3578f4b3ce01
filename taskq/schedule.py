"""What a schedule is: a job that is made again and again, and what may be said of that. Checked when it is said."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from hashlib import sha256
from math import inf
from typing import Any, Literal, TypedDict, get_args

import msgspec
from msgspec import Struct

from taskq.errors import ConfigError, InvalidSchedule
from taskq.job import Job
from taskq.options import Seconds, check_task, seconds
from taskq.timing import Timing, make_timing

Misfire = Literal["skip", "latest", "all"]
Overlap = Literal["allow", "skip", "queue_one", "cancel_previous"]

TICK, LIFE = "taskq-tick", "taskq-life"
"""Headers of a tick's job: the moment it was due, and what tells this job from another one of the same tick."""

GRACE = 60.0
"""Seconds after which a tick counts as missed, unless said, where missed ticks are skipped."""
MOST = 1000
"""Missed ticks that are told apart; of older ones it is only said that there were some."""


class ScheduleOptions(TypedDict, total=False):
    """What a schedule may say besides when."""

    every: Seconds
    """An interval, instead of cron text."""
    tz: str
    """The zone whose clock counts; default: UTC."""
    twice: bool
    """Fire twice when a named local hour comes twice; default: once."""
    except_: Sequence[str | date]
    """When not: dates, ``"2026-12-24/2027-01-02"``, ``"2026-01-12/2026-01-18 every 14d"``, and cron texts such as
    ``"* * * * SAT,SUN"``."""
    misfire: Misfire
    """Of the ticks that nobody was there for: none, the newest (the default), or up to ``limit`` of the newest."""
    limit: int
    """With ``misfire="all"``; default: 100."""
    grace: Seconds
    """How late a tick may still fire; default: a minute with ``misfire="skip"``, else for ever."""
    overlap: Overlap
    """When an earlier job has not ended: start beside it (the default), skip the tick, let one wait, or cancel it."""
    block_while_failed: bool
    """Skip ticks while the last job that is over is a dead letter, until that is revived or purged."""
    jitter: Seconds
    """Each tick starts up to so much later, always by the same for one tick."""


class Timetable(Struct, frozen=True, kw_only=True):
    """Checked: when, and what else a schedule says."""

    timing: Timing
    misfire: Misfire = "latest"
    limit: int = 100
    grace: float = inf
    overlap: Overlap = "allow"
    block_while_failed: bool = False
    jitter: float = 0.0


class Schedule(Struct, frozen=True, kw_only=True):
    """A job that is made again and again."""

    name: str
    timetable: Timetable
    job: Job
    """What each tick enqueues, but for its id and moment."""


def make_timetable(when: str | None, options: Mapping[str, Any]) -> Timetable:
    """Checked: raises InvalidSchedule for what is unknown, unfit, contradicts itself or is never due."""
    unknown = sorted(options.keys() - ScheduleOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(sorted(ScheduleOptions.__annotations__))
        raise InvalidSchedule(f"unknown option {unknown[0]!r} of a schedule; known: {known}")
    try:
        given = {name: _checked(name, value) for name, value in options.items()}
    except ConfigError as error:
        raise InvalidSchedule(str(error)) from error
    timing = make_timing(when, **{name: given.pop(name) for name in _TIMING if name in given})
    misfire, overlap = given.get("misfire", "latest"), given.get("overlap", "allow")
    given.setdefault("grace", GRACE if misfire == "skip" else inf)
    if "limit" in given and misfire != "all":
        raise InvalidSchedule('limit= says how many missed ticks are made up for: give misfire="all", too')
    if misfire == "all" and overlap != "allow":
        raise InvalidSchedule(
            f'misfire="all" starts several ticks at once, which overlap={overlap!r} does not let it: '
            'choose misfire="latest", or overlap="allow"'
        )
    return Timetable(timing=timing, **given)


_TIMING = ("every", "tz", "twice", "except_")
_CHOICES = {"misfire": get_args(Misfire), "overlap": get_args(Overlap)}


def _checked(name: str, value: Any) -> Any:
    match name:
        case "every" | "grace" | "jitter":
            return seconds(value, name)
        case "misfire" | "overlap":
            if value not in _CHOICES[name]:
                raise InvalidSchedule(f"{name}={value!r}: choose {' or '.join(map(repr, _CHOICES[name]))}")
        case "limit":
            if type(value) is not int or not 1 <= value <= MOST:
                raise InvalidSchedule(f"limit={value!r}: give a whole number from 1 to {MOST}")
        case "twice" | "block_while_failed":
            if type(value) is not bool:
                raise InvalidSchedule(f"{name}={value!r}: give True or False")
        case "except_":
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise InvalidSchedule(f"except_={value!r}: give a list of dates and cron texts")
            return tuple(map(_exception_text, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - checked there
        case _:
            if not isinstance(value, str):
                raise InvalidSchedule(f"{name}={value!r}: give text")
    return value


def _exception_text(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()[:10]
    if not isinstance(value, str):
        raise InvalidSchedule(f"except_: {value!r} is neither a date nor text")
    return " ".join(value.split())


def make_schedule(name: str, timetable: Timetable, job: Job) -> Schedule:
    """Raises InvalidSchedule for a name, or options of the job, that do not go with it."""
    try:
        check_task(name)
    except ConfigError as error:
        raise InvalidSchedule(str(error).replace("task name", "a schedule's name", 1)) from error
    if job.run_at is not None:
        raise InvalidSchedule(f"schedule {name}: its job says run_at=, which the schedule is to say: drop it")
    if timetable.overlap in ("queue_one", "cancel_previous"):
        if job.group is not None:
            raise InvalidSchedule(
                f"schedule {name}: overlap={timetable.overlap!r} puts its jobs into a group of their own, and its task "
                "says group=: drop one of them"
            )
        job = msgspec.structs.replace(job, group=f"schedule:{name}", group_limit=1)
    return Schedule(name=name, timetable=timetable, job=msgspec.structs.replace(job, id=name))


def job_of(schedule: Schedule, tick: float, life: str) -> Job:
    """The job of a tick: its id is the tick's, whoever enqueues it, and ``life`` is told from any other's."""
    timetable, job = schedule.timetable, schedule.job
    name = job_id(schedule.name, tick)
    run_at = None
    if timetable.jitter:
        chance = int.from_bytes(sha256(name.encode()).digest()[:4]) / 2**32
        run_at = tick + chance * timetable.jitter
    headers = {**job.headers, TICK: moment(tick).isoformat(), LIFE: life}
    return msgspec.structs.replace(job, id=name, run_at=run_at, headers=headers)


def job_id(name: str, tick: float) -> str:
    """``report@2026-03-29T01:00:00Z``."""
    return f"{name}@{moment(tick):%Y-%m-%dT%H:%M:%SZ}"


def moment(tick: float) -> datetime:
    """A tick, or another moment of the backend's clock, as a time of UTC."""
    return datetime.fromtimestamp(tick, UTC)
