"""Where members stand in their batch: the ids that their numbers give them, and the chunk they are counted in."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TypeVar

from taskq.errors import ConfigError
from taskq.flow.record import CHUNK
from taskq.job import Job, JobRef
from taskq.sequel import Place, plan_of, renamed

T = TypeVar("T")
K = TypeVar("K")

LONGEST = 200
"""Characters of a job's id."""


def numbered(batch: str, prefix: str, chunk: int, jobs: Sequence[Job], *, collects: bool = False) -> list[Job]:
    """The jobs of one chunk, each under the id and with the place that its number gives it."""
    return [
        renamed(job, f"{batch}.{name}", Place(batch, f"{prefix}/{chunk}", f"{name}@{job.queue}", collects))
        for name, job in ((f"{prefix}.{index}", job) for index, job in enumerate(jobs, chunk * CHUNK))
    ]


def numbered_behind(place: Place, jobs: Sequence[Job]) -> tuple[Job, ...]:
    """What a member adds, numbered behind it; raises ConfigError for an id that has grown too long."""
    prefix = place.member.partition("@")[0]
    chunks = [
        numbered(place.batch, prefix, number, jobs[number * CHUNK : (number + 1) * CHUNK])
        for number in range(-(-len(jobs) // CHUNK))
    ]
    added = tuple(job for chunk in chunks for job in chunk)
    if added and len(added[-1].id) > LONGEST:
        raise ConfigError(f"batch {place.batch}: members add members too many levels deep: their ids grow with each")
    return added


def ref_of(batch: str, member: str) -> JobRef:
    """Where the job of a member is to be found."""
    name, _, queue = member.partition("@")
    return JobRef(queue, f"{batch}.{name}")


def grouped(things: Iterable[T], part: Callable[[T], K]) -> dict[K, list[T]]:
    """The things of each part, in their order: what was fetched together is mostly of one."""
    parts: dict[K, list[T]] = {}
    for key, run in groupby(things, part):
        parts.setdefault(key, []).extend(run)
    return parts


def place_of(job: Job) -> Place:
    """Where a job stands that is to be a member."""
    plan = plan_of(job)
    assert plan is not None and plan.place is not None, "only members are admitted"  # noqa: S101, PT018
    return plan.place
