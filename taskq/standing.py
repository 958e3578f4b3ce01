"""How a piece of work stands, derived from its job whenever somebody asks. Pure.

A status that is written into a row is wrong as soon as its writer dies. This one is nowhere written, so it cannot be:
what is said to run has a live lease, and whose lease has ended waits for somebody else.
"""

from typing import Literal

from msgspec import Struct

from taskq.broker import Record
from taskq.report import End, Ended, ErrorReport, read_history, read_outcome

Stand = Literal["unknown", "waiting", "running", "retrying", "done", "failed", "stopped"]


class Standing(Struct, frozen=True, kw_only=True):
    """How a job stands at this moment."""

    state: Stand
    """``waiting``: nobody has it; ``running``: a worker has it, under a live lease; ``retrying``: a run has failed, and
    another follows; ``done``: it returned; ``failed``: it is a dead letter; ``stopped``: it was cancelled or discarded,
    or expired; ``unknown``: there is no such job, or none any more whose outcome is kept."""
    moment: float | None = None
    """When it is due, when the lease ends under which it runs, or when it was set aside, by the backend's clock."""
    attempt: int = 1
    reason: str = ""
    """Why it failed or was stopped, or what went wrong in its last run."""


UNKNOWN = Standing(state="unknown")


def standing_of(record: Record) -> Standing:
    """That of a job that is there, or lies dead."""
    if record.state == "dead":
        reason = "" if record.outcome is None else _reason(read_outcome(record.outcome))
        return Standing(state="failed", moment=record.due, attempt=record.attempt, reason=reason)
    waits: Stand = "retrying" if record.attempt > 1 else "waiting"
    state = "running" if record.state == "leased" else waits
    reason = _last(read_history(record.error).errors)
    return Standing(state=state, moment=record.due, attempt=record.attempt, reason=reason)


def standing_after(ended: Ended) -> Standing:
    """That of a job that has ended."""
    return Standing(state=_STATES[ended.end], attempt=ended.attempt, reason=_reason(ended))


_STATES: dict[End, Stand] = {
    "returned": "done",
    "failed": "failed",
    "quarantined": "failed",
    "lost": "failed",
    "cancelled": "stopped",
    "expired": "stopped",
    "discarded": "stopped",
}


def _reason(ended: Ended) -> str:
    return "" if ended.end == "returned" else ended.reason or _last(ended.errors)


def _last(errors: list[ErrorReport]) -> str:
    return f"{errors[-1].type}: {errors[-1].message}" if errors else ""
