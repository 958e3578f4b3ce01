"""Ends that are decided once: a decision is written down before its effects, and whoever finds it there obeys it."""

import msgspec
from msgspec import Struct

from taskq.flow.record import PENDING
from taskq.job import Ack, DeadLetter, Delivery, Job, JobRef
from taskq.outcome import Decision
from taskq.report import End
from taskq.sequel import FOLLOWS, Leave, plan_of
from taskq.store import Store

REMEMBERED = 7 * 86_400.0
"""Seconds a decision stays written down: longer than a job may wait for its next delivery after a crash."""


class _Mark(Struct, frozen=True):
    outcome: bytes | None
    keep: float
    dead: bool
    end: End
    reason: str
    effects: tuple[Job, ...]
    leaves: Leave | None = None
    fence: int = 0
    """Of the delivery that decided."""


def needs_mark(decision: Decision, job: Job) -> bool:
    """Whether an end must be decided once.

    For a member that leaves its batch with success its membership is mark enough: it is left once.
    """
    if decision.end is None:
        return False
    if decision.effects or FOLLOWS in job.headers:
        return True
    leaves = decision.leaves
    return leaves is not None and (not leaves.succeeded or leaves.place.collects or bool(leaves.adds))


async def find_mark(store: Store, delivery: Delivery) -> Decision | None:
    """What an earlier delivery of this job decided, without living to settle it."""
    value = (await store.get(_key(delivery.job.queue, delivery.job.id))).value
    return None if value is None or _of_earlier_life(value, delivery) else _restored(value, delivery.receipt)


async def decide_once(store: Store, decision: Decision, delivery: Delivery) -> Decision:
    """Write the decision down, and answer the one that counts: this one, or that which was there."""
    key, mine = _key(delivery.job.queue, delivery.job.id), _written(decision, delivery.fence)
    # A gathered result is read from here when the last of the gather has ended.
    collects = decision.leaves is not None and decision.leaves.place.collects
    ttl = PENDING if collects else REMEMBERED
    if await store.swap(key, None, mine, ttl=ttl):
        return decision
    value = (await store.get(key)).value
    if value is None or value == mine:
        return decision
    if _of_earlier_life(value, delivery):
        await store.swap(key, value, mine, ttl=ttl)
        return decision
    return _restored(value, delivery.receipt)


async def forget(store: Store, decision: Decision, job: Job) -> None:
    """Take back what :func:`decide_once` wrote, now that it is settled.

    A dead letter's mark would bind it when it is revived, any other's only takes room. But what may be enqueued again
    after it ended is to find its mark: a follow-up, and a member, by a producer that begins again.
    """
    plan = plan_of(job)
    again = FOLLOWS in job.headers or (plan is not None and plan.place is not None)
    if isinstance(decision.settlement, DeadLetter) or not again:
        key = _key(job.queue, job.id)
        await store.swap(key, (await store.get(key)).value, None)


async def marked_outcome(store: Store, ref: JobRef) -> bytes | None:
    """The encoded outcome that was written down for a job."""
    value = (await store.get(_key(ref.queue, ref.id))).value
    return None if value is None else msgspec.msgpack.decode(value, type=_Mark).outcome


def _key(queue: str, id: str) -> str:
    return f"end:{queue}:{id}"


def _of_earlier_life(value: bytes, delivery: Delivery) -> bool:
    """Whether a mark tells of the job's death before it was revived: in its own life a mark is found after a loss.

    A delivery that is out of date finds the mark of a later one, and obeys it.
    """
    mark = msgspec.msgpack.decode(value, type=_Mark)
    return mark.dead and not delivery.losses and mark.fence < delivery.fence


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


def _restored(value: bytes, receipt: str) -> Decision:
    mark = msgspec.msgpack.decode(value, type=_Mark)
    settlement = (
        DeadLetter(receipt, mark.outcome or b"", mark.keep) if mark.dead else Ack(receipt, mark.outcome, mark.keep)
    )
    return Decision(settlement, mark.end, mark.reason, mark.effects, mark.leaves)
