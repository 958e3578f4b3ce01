"""What happens to a delivery: the table that is the heart. Pure: nothing here touches a broker or a clock.

``screen`` says whether a delivery is run at all, ``decide`` what follows from how it went. What the handler did counts
before what was asked of it (cancel, shutdown), which counts before what is merely true of it (late, lost).
"""

import msgspec
from msgspec import Struct

from taskq.broker import Guarantee
from taskq.errors import Discard, HandedBack, LimitExceeded, RetryIn, Signal, Snooze
from taskq.following import FollowUp, breaking_off, death_of, going_on, leaving
from taskq.job import Ack, DeadLetter, Delivery, Job, Nack, Settlement
from taskq.report import (
    End,
    Ended,
    History,
    LastSeen,
    Redact,
    history_of,
    last_words,
    lengthened,
    line_of,
    put_off,
    redacted,
    text_of,
)
from taskq.retry import Retry
from taskq.sequel import FLOW, FOLLOWS, Leave, Plan, plan_of

LONGEST_PARK = 60.0
"""Seconds between two tries of a job that is newer than the worker: while most workers are old, it is tried often."""
PARKED_FOR = 86_400.0
"""Seconds a task may stay unknown before its jobs are set aside: longer than any rolling deploy."""


# What a run (or its refusal) came to


class Returned(Struct, frozen=True, gc=False):
    """The handler returned; ``value`` is its encoded result, None when none is kept."""

    value: bytes | None = None
    adds: tuple[Job, ...] = ()
    """What it adds to its batch."""


class Raised(Struct, frozen=True):
    """The handler raised an error or a signal, or the task's time-out was over (``JobTimeout``)."""

    error: Exception


class Interrupted(Struct, frozen=True):
    """The worker is shutting down and cancelled the run, or wants to run something else first."""

    begun: bool = True
    """False: nothing of the handler has run."""
    reason: str = "the worker is shutting down"
    after: float = 0.0
    """Seconds until it comes again."""


class Cancelled(Struct, frozen=True):
    """A user asked for it."""


class Expired(Struct, frozen=True):
    """Too late to start."""


class NotDue(Struct, frozen=True):
    """Its moment is further off than the broker can hold a job back."""


class Lost(Struct, frozen=True):
    """Its worker died under it, and the task runs at most once."""

    worker: LastSeen | None = None


class Poisonous(Struct, frozen=True):
    """Its workers died under it too often, or it was delivered beyond its attempts."""

    worker: LastSeen | None = None


class Unknown(Struct, frozen=True):
    """No such task here, or not in this version; a newer deploy may know it."""

    version: int | None = None


class Limited(Struct, frozen=True):
    """Refused by a limit, before anything of the handler has run."""

    after: float
    """Seconds until its turn."""
    turn: str | None = None
    """The limit in whose line it stands meanwhile."""


class Undecodable(Struct, frozen=True):
    """The body does not fit the task's signature."""

    error: Exception


Outcome = (
    Returned | Raised | Interrupted | Cancelled | Expired | NotDue | Lost | Poisonous | Unknown | Limited | Undecodable
)


class Policy(Struct, frozen=True, kw_only=True):
    """The registry's half of every decision: the job says what, this says how."""

    retry: Retry = Retry()
    guarantee: Guarantee = "at_least_once"
    keep: float = 0.0
    """Seconds an outcome is kept."""
    keep_dead: float = float("inf")
    max_losses: int = 3
    on_dead: FollowUp | None = None
    redact: Redact | None = None
    build: str = ""
    """What the running code calls itself."""


class Decision(Struct, frozen=True, gc=False):
    """What is to be done: a settlement, and how the job ended with it (None: it will run again)."""

    settlement: Settlement
    end: End | None
    reason: str = ""
    effects: tuple[Job, ...] = ()
    """Enqueued before the settlement, under fixed ids, so that repeating them adds nothing."""
    leaves: Leave | None = None
    """The batch it leaves, when the above are enqueued."""


def screen(delivery: Delivery, policy: Policy) -> Outcome | None:
    """Why a delivery must not be run, or None: run it."""
    if delivery.cancelled:
        return Cancelled()
    if delivery.losses and policy.guarantee == "at_most_once":
        return Lost()
    if delivery.losses >= policy.max_losses or delivery.attempt > policy.retry.attempts:
        return Poisonous()
    if delivery.due > delivery.now:
        return NotDue()
    if delivery.expires_at is not None and delivery.now > delivery.expires_at:
        return Expired()
    return None


def decide(
    outcome: Outcome, delivery: Delivery, policy: Policy, *, chance: float, plan: Plan | None = None
) -> Decision:
    """The one thing that happens to this delivery. ``chance`` in [0, 1) spreads retries; ``plan``: if it was read."""
    if plan is not None and not plan.next and isinstance(outcome, Returned):
        # A batch's members, nearly always.
        leaves = leaving(delivery, plan, outcome.adds)
        return Decision(_settled(delivery, policy, "returned", outcome.value), "returned", leaves=leaves)
    decision = _decide(outcome, delivery, policy, chance)
    if decision.end is None or FLOW not in delivery.job.headers:
        return decision
    plan = plan or plan_of(delivery.job)
    if plan is None:
        return decision
    if isinstance(outcome, Returned):
        effects, leaves = going_on(delivery, plan, outcome.value, outcome.adds)
    else:
        effects, leaves = breaking_off(delivery, plan, decision.settlement, decision.end, decision.reason)
    # Half the price of a replace().
    return Decision(decision.settlement, decision.end, decision.reason, decision.effects + effects, leaves)


def _decide(outcome: Outcome, delivery: Delivery, policy: Policy, chance: float) -> Decision:
    match outcome:
        case Returned(value=value):
            return _ack(delivery, policy, "returned", value=value)
        case Raised(error):
            return _raised(error, delivery, policy, chance)
        case Interrupted(begun=True) if policy.guarantee == "at_most_once":
            return _dead(delivery, policy, "lost", reason="interrupted by a shutdown, and the task runs at most once")
        case Interrupted(begun=True, reason=reason):
            again = _put_off(history_of(delivery), delivery, reason, policy)
            return Decision(Nack(delivery.receipt, 0.0, counted=False, error=again), None, reason)
        case Interrupted(reason=reason, after=after):
            return Decision(Nack(delivery.receipt, after, counted=False), None, reason)
        case Cancelled():
            return _ack(delivery, policy, "cancelled")
        case Expired():
            return _ack(delivery, policy, "expired")
        case NotDue():
            return Decision(Nack(delivery.receipt, delivery.due - delivery.now, counted=False), None, "not due yet")
        case Lost(worker):
            reason = "its worker died under it, and the task runs at most once"
            return _dead(delivery, policy, "lost", reason=reason, worker=worker)
        case Poisonous(worker):
            reason = f"delivered {delivery.attempt} times, {delivery.losses} workers died under it"
            return _dead(delivery, policy, "quarantined", reason=reason, worker=worker)
        case Unknown(version):
            return _unknown(version, delivery, policy)
        case Limited(after, turn):
            nack = Nack(delivery.receipt, after, counted=False, error=_turning(delivery, turn))
            return Decision(nack, None, "refused by a limit")
        case Undecodable(error):
            return _dead(delivery, policy, "failed", error=error, reason="its arguments do not fit the task")


def _raised(error: Exception, delivery: Delivery, policy: Policy, chance: float) -> Decision:
    signal = error if isinstance(error, Signal) else policy.retry.signal_for(error, delivery.attempt)
    if signal is None and isinstance(error, LimitExceeded):
        signal = Snooze(error.after, line_of(error))
    if isinstance(signal, Discard):
        reason = text_of(signal) or ("" if signal is error else line_of(error))
        return _ack(delivery, policy, "discarded", reason=reason)
    if policy.guarantee == "at_most_once":
        return _dead(delivery, policy, "failed", error=error, reason="the task runs at most once")
    history = history_of(delivery)
    since = delivery.now if history.failing_since is None else history.failing_since
    budget = policy.retry.snoozes
    match signal:
        case HandedBack(after=after):
            return _snoozed(after, text_of(signal), history, delivery, policy)
        case Snooze(after=after) if budget is None or history.snoozed < budget:
            history = msgspec.structs.replace(history, snoozed=history.snoozed + 1)
            return _snoozed(after, text_of(signal) or "snoozed", history, delivery, policy)
        case RetryIn(after=after) | Snooze(after=after) if delivery.attempt < policy.retry.attempts:
            delay: float | None = after
        case RetryIn() | Snooze():
            delay = None
        case _:
            failing_for = delivery.now - since
            delay = policy.retry.next_delay(error, delivery.attempt, chance, failing_for=failing_for)
    if delay is None:
        return _dead(delivery, policy, "failed", error=error)
    errors = lengthened(history, delivery, error, policy.redact, policy.build)
    history = History(errors=errors, uncounted=history.uncounted, failing_since=since, snoozed=history.snoozed)
    settlement = Nack(delivery.receipt, delay, error=msgspec.json.encode(history))
    return Decision(settlement, None, line_of(error))


def _snoozed(after: float, reason: str, history: History, delivery: Delivery, policy: Policy) -> Decision:
    again = _put_off(msgspec.structs.replace(history, turn=None), delivery, reason, policy)
    return Decision(Nack(delivery.receipt, after, counted=False, error=again), None, reason)


def _put_off(history: History, delivery: Delivery, reason: str, policy: Policy) -> bytes:
    """The history with this run in it, which does not count."""
    uncounted = put_off(history, delivery, reason, policy.redact, policy.build)
    return msgspec.json.encode(msgspec.structs.replace(history, uncounted=uncounted))


def _turning(delivery: Delivery, turn: str | None) -> bytes | None:
    """The history with this turn in it; None: as it was."""
    history = history_of(delivery)
    return None if history.turn == turn else msgspec.json.encode(msgspec.structs.replace(history, turn=turn))


def _unknown(version: int | None, delivery: Delivery, policy: Policy) -> Decision:
    history = history_of(delivery)
    since = delivery.now if history.parked_since is None else history.parked_since
    what = "no task" if version is None else f"no version {version} of a task"
    reason = f"{what} named {delivery.job.task!r} is known to the workers of queue {delivery.job.queue!r}"
    if delivery.now - since >= PARKED_FOR:
        return _dead(delivery, policy, "failed", reason=reason)
    after = min(LONGEST_PARK, 2.0 ** min(history.parked, 10))
    parked = msgspec.structs.replace(history, parked=history.parked + 1, parked_since=since)
    error = msgspec.json.encode(parked)
    return Decision(Nack(delivery.receipt, after, counted=False, error=error), None, reason)


def _ack(delivery: Delivery, policy: Policy, end: End, *, value: bytes | None = None, reason: str = "") -> Decision:
    return Decision(_settled(delivery, policy, end, value, reason), end, reason)


def _settled(delivery: Delivery, policy: Policy, end: End, value: bytes | None, reason: str = "") -> Ack:
    if not policy.keep:
        return Ack(delivery.receipt)
    ended = Ended(end, msgspec.Raw(value or b"null"), reason, build=policy.build)
    if delivery.attempt > 1 or delivery.losses or delivery.error is not None:
        ended = _with_past(ended, delivery, history_of(delivery))
    return Ack(delivery.receipt, msgspec.json.encode(ended), policy.keep)


def _dead(
    delivery: Delivery,
    policy: Policy,
    end: End,
    *,
    error: Exception | None = None,
    reason: str = "",
    worker: LastSeen | None = None,
) -> Decision:
    if worker is not None:
        reason = f"{reason}; {last_words(worker)}"
        if policy.redact is not None:
            worker = msgspec.structs.replace(worker, stack=redacted(policy.redact, worker.stack))
    history = history_of(delivery)
    errors = history.errors
    if error is not None:
        errors = lengthened(history, delivery, error, policy.redact, policy.build)
    ended = Ended(end, reason=reason, errors=errors, worker=worker, build=policy.build)
    outcome = msgspec.json.encode(_with_past(ended, delivery, history))
    effects: tuple[Job, ...] = ()
    # Who is told of deaths dies untold.
    if policy.on_dead is not None and delivery.job.id != f"{delivery.job.headers.get(FOLLOWS)}.dead":
        effects = (policy.on_dead.told(death_of(delivery, reason, ended), delivery.job),)
    settlement = DeadLetter(delivery.receipt, outcome, policy.keep_dead)
    return Decision(settlement, end, reason or text_of(error), effects)


def _with_past(ended: Ended, delivery: Delivery, history: History) -> Ended:
    """What is told of earlier runs; an end that failed has its errors already."""
    return msgspec.structs.replace(
        ended,
        errors=ended.errors or history.errors,
        uncounted=history.uncounted,
        attempt=delivery.attempt,
        losses=delivery.losses,
    )
