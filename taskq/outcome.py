"""What happens to a delivery: the table that is the heart. Pure: nothing here touches a broker or a clock.

``screen`` says whether a delivery is run at all, ``decide`` what follows from how it went. What the handler did counts
before what was asked of it (cancel, shutdown), which counts before what is merely true of it (late, lost).
"""

import hashlib
import traceback
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from taskq.broker import Guarantee
from taskq.errors import DecodeError, Discard, JobTimeout, RetryIn, Signal, Snooze
from taskq.job import Ack, DeadLetter, Delivery, Nack, Settlement
from taskq.retry import Retry

End = Literal["returned", "failed", "quarantined", "lost", "cancelled", "expired", "discarded"]

MESSAGE_LIMIT = 10_000
HISTORY_LIMIT = 10
PARKED_FOR = 86_400.0
"""Seconds a task may stay unknown before its jobs are set aside: longer than any rolling deploy."""


# What a run (or its refusal) came to


class Returned(Struct, frozen=True):
    """The handler returned; ``value`` is its encoded result, None when none is kept."""

    value: bytes | None = None


class Raised(Struct, frozen=True):
    """The handler raised an error or a signal, or the task's time-out was over (``JobTimeout``)."""

    error: Exception


class Interrupted(Struct, frozen=True):
    """The worker is shutting down and cancelled the run, or wants to run something else first."""

    begun: bool = True
    """False: nothing of the handler has run."""


class Cancelled(Struct, frozen=True):
    """A user asked for it."""


class Expired(Struct, frozen=True):
    """Too late to start."""


class Lost(Struct, frozen=True):
    """Its worker died under it, and the task runs at most once."""


class Poisonous(Struct, frozen=True):
    """Its workers died under it too often, or it was delivered beyond its attempts."""


class Unknown(Struct, frozen=True):
    """No such task here; a newer deploy may know it."""


class Undecodable(Struct, frozen=True):
    """The body does not fit the task's signature."""

    error: Exception


Outcome = Returned | Raised | Interrupted | Cancelled | Expired | Lost | Poisonous | Unknown | Undecodable


# What is kept of it


class ErrorReport(Struct, frozen=True, omit_defaults=True):
    """One failed run, as text."""

    type: str
    message: str
    attempt: int
    at: float
    """Seconds since the epoch, by the backend's clock."""
    traceback: str = ""
    fingerprint: str = ""
    """Equal for errors raised alike: the class and the functions it passed through."""


class History(Struct, frozen=True, omit_defaults=True):
    """What a job's earlier runs came to; travels with it as ``Nack.error``."""

    errors: list[ErrorReport] = []
    failing_since: float | None = None
    parked_since: float | None = None
    parked: Annotated[int, Meta(ge=0)] = 0
    """How often the task was unknown."""


class Ended(Struct, frozen=True, omit_defaults=True):
    """How a job ended; encoded as what ``Results`` keeps and dead letters carry."""

    end: End
    value: msgspec.Raw = msgspec.Raw(b"null")
    reason: str = ""
    errors: list[ErrorReport] = []
    """Newest last, at most ten, only the newest with its traceback."""


class Policy(Struct, frozen=True, kw_only=True):
    """The registry's half of every decision: the job says what, this says how."""

    retry: Retry = Retry()
    guarantee: Guarantee = "at_least_once"
    keep: float = 0.0
    """Seconds an outcome is kept."""
    keep_dead: float = float("inf")
    max_losses: int = 3


class Decision(Struct, frozen=True):
    """What is to be done: a settlement, and how the job ended with it (None: it will run again)."""

    settlement: Settlement
    end: End | None
    reason: str = ""


def screen(delivery: Delivery, policy: Policy) -> Outcome | None:
    """Why a delivery must not be run, or None: run it."""
    if delivery.cancelled:
        return Cancelled()
    if delivery.losses and policy.guarantee == "at_most_once":
        return Lost()
    if delivery.losses >= policy.max_losses or delivery.attempt > policy.retry.attempts:
        return Poisonous()
    if delivery.expires_at is not None and delivery.now > delivery.expires_at:
        return Expired()
    return None


def decide(outcome: Outcome, delivery: Delivery, policy: Policy, *, chance: float) -> Decision:
    """The one thing that happens to this delivery. ``chance`` in [0, 1) spreads retries."""
    match outcome:
        case Returned(value):
            return _ack(delivery, policy, "returned", value=value)
        case Raised(error):
            return _raised(error, delivery, policy, chance)
        case Interrupted(begun=True) if policy.guarantee == "at_most_once":
            return _dead(delivery, policy, "lost", reason="interrupted by a shutdown, and the task runs at most once")
        case Interrupted():
            return Decision(Nack(delivery.receipt, 0.0, counted=False), None, "the worker is shutting down")
        case Cancelled():
            return _ack(delivery, policy, "cancelled")
        case Expired():
            return _ack(delivery, policy, "expired")
        case Lost():
            return _dead(delivery, policy, "lost", reason="its worker died under it, and the task runs at most once")
        case Poisonous():
            reason = f"delivered {delivery.attempt} times, {delivery.losses} workers died under it"
            return _dead(delivery, policy, "quarantined", reason=reason)
        case Unknown():
            return _unknown(delivery, policy)
        case Undecodable(error):
            return _dead(delivery, policy, "failed", error=error, reason="its arguments do not fit the task")


def _raised(error: Exception, delivery: Delivery, policy: Policy, chance: float) -> Decision:
    signal = error if isinstance(error, Signal) else policy.retry.signal_for(error, delivery.attempt)
    if isinstance(signal, Discard):
        reason = text_of(signal) or ("" if signal is error else _line(error))
        return _ack(delivery, policy, "discarded", reason=reason)
    if policy.guarantee == "at_most_once":
        return _dead(delivery, policy, "failed", error=error, reason="the task runs at most once")
    history = history_of(delivery)
    since = delivery.now if history.failing_since is None else history.failing_since
    match signal:
        case Snooze(after=after):
            return Decision(Nack(delivery.receipt, after, counted=False), None, text_of(signal) or "snoozed")
        case RetryIn(after=after) if delivery.attempt < policy.retry.attempts:
            delay: float | None = after
        case RetryIn():
            delay = None
        case _:
            failing_for = delivery.now - since
            delay = policy.retry.next_delay(error, delivery.attempt, chance, failing_for=failing_for)
    if delay is None:
        return _dead(delivery, policy, "failed", error=error)
    history = History(errors=_with(history, delivery, error), failing_since=since)
    settlement = Nack(delivery.receipt, delay, error=msgspec.json.encode(history))
    return Decision(settlement, None, _line(error))


def _unknown(delivery: Delivery, policy: Policy) -> Decision:
    history = history_of(delivery)
    since = delivery.now if history.parked_since is None else history.parked_since
    reason = f"no task named {delivery.job.task!r} is known to the workers of queue {delivery.job.queue!r}"
    if delivery.now - since >= PARKED_FOR:
        return _dead(delivery, policy, "failed", reason=reason)
    after = min(600.0, 2.0 ** min(history.parked, 10))
    parked = msgspec.structs.replace(history, parked=history.parked + 1, parked_since=since)
    error = msgspec.json.encode(parked)
    return Decision(Nack(delivery.receipt, after, counted=False, error=error), None, reason)


def _ack(delivery: Delivery, policy: Policy, end: End, *, value: bytes | None = None, reason: str = "") -> Decision:
    if not policy.keep:
        return Decision(Ack(delivery.receipt), end, reason)
    ended = Ended(end, msgspec.Raw(value or b"null"), reason)
    return Decision(Ack(delivery.receipt, msgspec.json.encode(ended), policy.keep), end, reason)


def _dead(
    delivery: Delivery, policy: Policy, end: End, *, error: Exception | None = None, reason: str = ""
) -> Decision:
    history = history_of(delivery)
    errors = history.errors if error is None else _with(history, delivery, error)
    outcome = msgspec.json.encode(Ended(end, reason=reason, errors=errors))
    return Decision(DeadLetter(delivery.receipt, outcome, policy.keep_dead), end, reason or text_of(error))


def history_of(delivery: Delivery) -> History:
    """What the earlier runs left behind; empty when there is nothing, or nothing that can be read."""
    if delivery.error is None:
        return History()
    try:
        return msgspec.json.decode(delivery.error, type=History)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return History()


def read_outcome(data: bytes) -> Ended:
    """The end that ``data`` tells of; raises DecodeError for bytes that tell of none."""
    try:
        return msgspec.json.decode(data, type=Ended)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"the outcome cannot be read: {error}") from error


def _with(history: History, delivery: Delivery, error: Exception) -> list[ErrorReport]:
    earlier = [msgspec.structs.replace(report, traceback="") for report in history.errors[-HISTORY_LIMIT + 1 :]]
    return [*earlier, report(error, attempt=delivery.attempt, at=delivery.now)]


def report(error: Exception, *, attempt: int, at: float) -> ErrorReport:
    """An error as bounded text: what fits in a message of 10,000 characters and a traceback of as many."""
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    text = "" if isinstance(error, JobTimeout) else "".join(traceback.format_exception(error))
    return ErrorReport(
        type=name,
        message=text_of(error)[:MESSAGE_LIMIT],
        attempt=attempt,
        at=at,
        traceback=_sendable(text[-MESSAGE_LIMIT:]),
        fingerprint=hashlib.sha256("\n".join([name, *frames]).encode()).hexdigest()[:16],
    )


def text_of(error: object) -> str:
    """What an error says, as text that can be sent; an error may fail at that, too."""
    try:
        return _sendable(str(error))
    except Exception as failure:  # noqa: BLE001 - the code is the handler's
        return f"(its text cannot be had: {type(failure).__name__})"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {text_of(error)}"


def _sendable(text: str) -> str:
    # File names and the like may hold halves of surrogate pairs, which UTF-8 refuses.
    return text.encode("utf-8", "backslashreplace").decode()
