"""What follows from a job's end, as it travels in the job's headers: the rest of its chain, the batch it leaves.

Values and pure functions: brokers know nothing of them, and ``decide`` only reads them.
"""

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskq.job import Job

FLOW = "taskq-flow"
"""Header of a job whose end others wait for: its encoded :class:`Plan`."""
FOLLOWS = "taskq-follows"
"""Header of a follow-up: the id of the job or batch whose end brought it about."""
KEPT = 3600.0
"""Seconds for which the outcomes are kept at least of a job whose plan says so."""


class Step(Struct, frozen=True, omit_defaults=True, gc=False):
    """A job that is enqueued when something before it has ended."""

    job: Job
    takes: str = ""
    """The argument that what came before becomes; without one the call is complete."""


class Place(Struct, frozen=True, array_like=True, gc=False):
    """Where a member stands in its batch."""

    batch: str
    chunk: str
    """The part of the batch's members it is counted in; empty for a batch in a batch."""
    member: str
    collects: bool = False
    """The batch's end needs the member's result."""


class Plan(Struct, frozen=True, omit_defaults=True, gc=False):
    """What waits for a job's end."""

    next: tuple[Step, ...] = ()
    """Enqueued one after another, each when the one before has returned."""
    failed: Step | None = None
    """Enqueued, with a ``Death``, when one of them ended in another way."""
    place: Place | None = None
    """Left when the last of them has ended, or one did not return."""
    keeps: bool = False
    """Somebody waits for the outcomes, also those of tasks that keep none."""


class Leave(Struct, frozen=True, gc=False):
    """A member leaves its batch."""

    place: Place
    succeeded: bool
    death: bytes = b"null"
    """Of one that failed: what ``first_failure`` is told."""
    adds: tuple[Job, ...] = ()
    """Members that it adds before."""
    fence: int = 0
    """Of the delivery that returned; 0 where there was none, or no other can come after it."""


class _Wire(Struct):
    args: dict[str, msgspec.Raw]
    v: int = 1


_plans = msgspec.json.Decoder(Plan)


def plan_of(job: Job) -> Plan | None:
    """The plan that a job carries; None when there is none, or none that can be read."""
    text = job.headers.get(FLOW)
    if text is None:
        return None
    try:
        return _plans.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def planned(job: Job, plan: Plan) -> Job:
    """The job with this plan in its headers."""
    if plan == Plan():
        return job
    return replace(job, headers={**job.headers, FLOW: msgspec.json.encode(plan).decode()})


def follow_up(step: Step, value: bytes, *, follows: str, id: str | None = None) -> Job:
    """The job of a step, now that what came before has come to ``value``."""
    job = step.job
    body = job.body
    if step.takes:
        wire = msgspec.json.decode(body, type=_Wire)
        wire.args[step.takes] = msgspec.Raw(value)
        body = msgspec.json.encode(wire)
    return replace(job, id=id or job.id, body=body, headers={**job.headers, FOLLOWS: follows})


def begin(plan: Plan, value: bytes, *, follows: str, id: str | None = None) -> Job:
    """The first job of what is next in a plan, with the rest in its headers."""
    first = follow_up(plan.next[0], value, follows=follows, id=id)
    return planned(first, replace(plan, next=plan.next[1:]))


def renamed(job: Job, id: str, place: Place | None = None) -> Job:
    """The job under another id, and what follows it under ids made of that; with a place it is a member."""
    plan = plan_of(job) or Plan()
    steps = tuple(replace(step, job=replace(step.job, id=f"{id}.{number}")) for number, step in enumerate(plan.next, 1))
    keeps = plan.keeps or (place is not None and place.collects)
    return planned(replace(job, id=id), replace(plan, next=steps, place=place, keeps=keeps))
