"""What workers noticed of a task, what of it is told to whom, and what is remembered of that: values, and pure."""

from collections.abc import Collection, Sequence

from msgspec import Struct

from taskq.webhook import Kind, Told


class Notice(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker noticed of a task in about a second."""

    task: str
    failed: int = 0
    dead: int = 0
    job: str = ""
    error: str = ""
    """Of the last failure."""
    at: float = 0.0
    """When that was; 0.0 without one. Seconds since the epoch, by the worker's clock."""
    returned: float = 0.0
    """When a job of it returned, after it had been told of; 0.0 if none did."""


class Mark(Struct, frozen=True):
    """That a task was told of, and did not recover since."""

    kind: Kind
    """The gravest that was told."""
    at: float
    """When it last failed."""


def gathered(notices: Sequence[Notice]) -> Notice:
    """All that was noticed of one task, as one."""
    last = max(notices, key=lambda notice: notice.at)
    return Notice(
        task=last.task,
        failed=sum(notice.failed for notice in notices),
        dead=sum(notice.dead for notice in notices),
        job=last.job,
        error=last.error,
        at=last.at,
        returned=max(notice.returned for notice in notices),
    )


def kind_for(on: Collection[Kind], whole: Notice, mark: Mark | None) -> Kind | None:
    """As what this is told to whom it may concern, the gravest first; None: not at all."""
    if whole.dead and "dead" in on:
        return "dead"
    if whole.failed and "failed" in on:
        return "failed"
    told = mark is not None and mark.kind in on
    return "recovered" if "recovered" in on and told and remaining(whole, mark) is None else None


def remaining(whole: Notice, mark: Mark | None) -> Mark | None:
    """What is to be remembered as told."""
    if whole.dead or whole.failed:
        grave = whole.dead or (mark is not None and mark.kind == "dead")
        return Mark("dead" if grave else "failed", whole.at)
    return None if mark is not None and whole.returned > mark.at else mark


def told(whole: Notice) -> Told:
    """What a message says of it."""
    return Told(task=whole.task, failed=whole.failed, dead=whole.dead, job=whole.job, error=whole.error)
