"""What is said of a batch when it is made: what follows from it, and its terms."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import inf
from typing import Any, Literal, TypedDict, cast

from msgspec.structs import replace

from taskq.call import Call, Chain, Gather, Takes, received
from taskq.errors import ConfigError
from taskq.flow.record import EXCUSABLE, KEPT, BatchReport, Record, Terms
from taskq.sequel import Plan, Step
from taskq.tags import check_tags

_LONGEST = 500

Told = Call[Any] | Chain[Any] | Takes[BatchReport, Any]


class BatchOptions(TypedDict, total=False):
    """What else may be said of a batch: ``app.batch("import", progress={0.5: report}, tags="nightly")``."""

    progress: Mapping[float, Told]
    """What is enqueued when a fraction of the members has ended, or so many: ``{0.5: report, 1000: report}``."""
    excuses: Sequence[Literal["expired", "discarded", "cancelled"]]
    """Ends of members that are no failures: ``excuses=["expired"]``."""
    description: str
    tags: str | Sequence[str]
    most: int
    """Members that it takes; who adds more is refused with BatchFull. Ten million by default."""
    deepest: int
    """Levels of members added by members, and of batches in it; a hundred by default."""
    keep: float | timedelta
    """How long it is known after its end: seven days by default, and at least."""


def draft(plans: Mapping[str, Plan], id: str, options: BatchOptions) -> Record:
    """A batch as it will be made; raises ConfigError for what makes no sense."""
    progress = options.get("progress", {})
    marks = {f"progress-{mark}": _check_mark(mark) for mark in progress}
    told = {f"progress-{mark}": callback(f"{id}.progress-{mark}", told) for mark, told in progress.items()}
    return Record(plans={**plans, **told}, progress=marks, terms=_terms(options))


def callback(id: str, flow: Call[Any] | Chain[Any] | Takes[Any, Any]) -> Plan:
    """What is enqueued under this id when something has become of a batch; raises ConfigError for a gather."""
    chain = flow if isinstance(flow, Chain) else Chain[Any](head=received(flow))
    if isinstance(chain.head, Gather):
        raise ConfigError("a gather cannot be a batch's callback: let it be a task that defers it")
    plan = chain.plan()
    return named(replace(plan, next=(Step(chain.head.job, chain.head.takes), *plan.next)), id)


def named(plan: Plan, id: str) -> Plan:
    """The plan with the ids that its jobs will have, the first of them this one."""
    steps = [
        replace(step, job=replace(step.job, id=f"{id}.{number}" if number else id))
        for number, step in enumerate(plan.next)
    ]
    return replace(plan, next=tuple(steps))


def _check_mark(mark: object) -> float:
    if (isinstance(mark, float) and 0 < mark < 1) or (isinstance(mark, int) and mark >= 1 and mark is not True):
        return mark
    raise ConfigError(
        f"progress {mark!r}: give a fraction between 0 and 1, as 0.5, or a number of members; of all of them "
        "finished= is told"
    )


def _terms(options: BatchOptions) -> Terms:
    unknown = options.keys() - BatchOptions.__annotations__.keys()
    if unknown:
        raise ConfigError(
            f"batches have no option {min(unknown)!r}: they have {', '.join(BatchOptions.__annotations__)}"
        )
    description = options.get("description", "")
    if not isinstance(cast("object", description), str) or len(description) > _LONGEST:
        raise ConfigError(f"description={description!r}: give a text of up to {_LONGEST} characters")
    excuses = options.get("excuses", ())
    if isinstance(excuses, str) or not set(excuses) <= set(EXCUSABLE):
        raise ConfigError(f"excuses={excuses!r}: give some of {', '.join(EXCUSABLE)} in a list")
    return Terms(
        description=description,
        tags=check_tags(options.get("tags", ())),
        excuses=tuple(excuses),
        most=_check_bound("most", options.get("most", Terms().most), 1),
        deepest=_check_bound("deepest", options.get("deepest", Terms().deepest), 0),
        keep=_check_keep(options.get("keep", KEPT)),
    )


def _check_keep(keep: object) -> float:
    seconds = keep.total_seconds() if isinstance(keep, timedelta) else keep
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and KEPT <= seconds < inf:
        return float(seconds)
    raise ConfigError(
        f"keep={keep!r}: give seconds, or a timedelta, of at least seven days, which is the default: until then its "
        "producer or a member may be delivered once more, and would begin it anew"
    )


def _check_bound(name: str, bound: object, least: int) -> int:
    if isinstance(bound, int) and not isinstance(bound, bool) and bound >= least:
        return bound
    raise ConfigError(f"{name}={bound!r}: give a whole number of at least {least}")
