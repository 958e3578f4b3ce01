"""Ends that are decided once: a decision is written down before its effects, and whoever finds it there obeys it."""

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskq.flow.record import KEPT, PENDING
from taskq.job import Ack, DeadLetter, Delivery, Job, JobRef
from taskq.outcome import Decision
from taskq.report import End
from taskq.sequel import FOLLOWS, Leave, plan_of
from taskq.store import Store

REMEMBERED = KEPT
"""Seconds a decision stays written down: longer than a job may wait for its next delivery after a crash."""
SETTLED = 86_400.0
"""Seconds that is known of a settled end that there was one: longer than a worker may stand still and then go on."""


class _Mark(Struct, frozen=True):
    outcome: bytes | None
    keep: float
    dead: bool
    end: End
    reason: str
    effects: tuple[Job, ...]
    leaves: Leave | None = None
    fence: int = 0
    """Of the delivery that decided, or settled it."""
    settled: bool = False
    """It binds nobody any more, but who comes too late with another."""


def needs_mark(decision: Decision, delivery: Delivery, *, outlived: bool = False) -> bool:
    """Whether an end must be decided once.

    For a member that leaves its batch with success its membership is mark enough: it is left once. But a run that was
    taken for dead may stand still only, and fail yet; and one that has ``outlived`` its lease may be that run.
    """
    if decision.end is None:
        return False
    if decision.effects or FOLLOWS in delivery.job.headers:
        return True
    return decision.leaves is not None and (outlived or not leaves_by_membership(decision, delivery))


def leaves_by_membership(decision: Decision, delivery: Delivery) -> bool:
    """Whether its membership is all that decides this end, and leaving all that follows from it."""
    leaves = decision.leaves
    return (
        leaves is not None
        and leaves.succeeded
        and not (leaves.adds or leaves.place.collects or delivery.losses or decision.effects)
        and FOLLOWS not in delivery.job.headers
    )


async def find_mark(store: Store, delivery: Delivery) -> Decision | None:
    """What an earlier delivery of this job decided, without living to settle it."""
    mark = _read((await store.get(_key(delivery.job))).value)
    return None if mark is None or _is_past(mark, delivery) else _restored(mark, delivery.receipt)


async def has_died_after(store: Store, ref: JobRef, fence: int) -> bool:
    """Whether a later delivery of a job has become a dead letter, or is to."""
    mark = _read((await store.get(_key(ref))).value)
    return mark is not None and mark.dead and mark.fence > fence


async def decide_once(store: Store, decision: Decision, delivery: Delivery) -> Decision:
    """Write the decision down, and answer the one that counts: this one, or that which was there."""
    key, mine = _key(delivery.job), _written(decision, delivery.fence)
    # A gathered result is read from here when the last of the gather has ended.
    collects = decision.leaves is not None and decision.leaves.place.collects
    before: bytes | None = None
    while not await store.swap(key, before, mine, ttl=PENDING if collects else REMEMBERED):
        before = (await store.get(key)).value
        mark = _read(before)
        if before == mine:
            break
        if mark is not None and mark.settled and delivery.fence < mark.fence:
            # It has ended without us, who stood still meanwhile: nothing may follow from this, and nobody takes it.
            return replace(decision, effects=(), leaves=None)
        if mark is not None and not _is_past(mark, delivery):
            return _restored(mark, delivery.receipt)
    return decision


async def forget(store: Store, decision: Decision, delivery: Delivery) -> None:
    """Take back what :func:`decide_once` wrote, now that it is settled; what is left only stops who comes too late.

    A dead letter's mark would bind it when it is revived, any other's only takes room. But what may be enqueued again
    after it ended is to find its mark: a follow-up, and a member, by a producer that begins again.
    """
    plan = plan_of(delivery.job)
    again = FOLLOWS in delivery.job.headers or (plan is not None and plan.place is not None)
    if isinstance(decision.settlement, DeadLetter) or not again:
        value = (await store.get(_key(delivery.job))).value
        mark = _read(value)
        if mark is not None and mark.fence <= delivery.fence:
            left = _Mark(None, 0.0, mark.dead, mark.end, "", (), fence=delivery.fence, settled=True)
            await store.swap(_key(delivery.job), value, msgspec.msgpack.encode(left), ttl=SETTLED)


async def marked_outcome(store: Store, ref: JobRef) -> bytes | None:
    """The encoded outcome that was written down for a job."""
    mark = _read((await store.get(_key(ref))).value)
    return None if mark is None else mark.outcome


def _key(job: Job | JobRef) -> str:
    return f"end:{job.queue}:{job.id}"


def _read(value: bytes | None) -> _Mark | None:
    return None if value is None else msgspec.msgpack.decode(value, type=_Mark)


def _is_past(mark: _Mark, delivery: Delivery) -> bool:
    """Whether a mark is settled, or of a death before the job was revived: in its own life one is found after a loss.

    A delivery that is out of date finds the mark of a later one, and obeys it.
    """
    return mark.settled or (mark.dead and not delivery.losses and mark.fence < delivery.fence)


def _written(decision: Decision, fence: int) -> bytes:
    settlement = decision.settlement
    assert isinstance(settlement, Ack | DeadLetter) and decision.end is not None, "only ends are marked"  # noqa: S101, PT018
    dead = isinstance(settlement, DeadLetter)
    mark = _Mark(
        outcome=settlement.outcome,
        keep=settlement.keep,
        dead=dead,
        end=decision.end,
        reason=decision.reason,
        effects=decision.effects,
        leaves=decision.leaves,
        fence=fence,
    )
    return msgspec.msgpack.encode(mark)


def _restored(mark: _Mark, receipt: str) -> Decision:
    settlement = (
        DeadLetter(receipt, mark.outcome or b"", mark.keep) if mark.dead else Ack(receipt, mark.outcome, mark.keep)
    )
    return Decision(settlement, mark.end, mark.reason, mark.effects, mark.leaves)
