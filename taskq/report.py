"""What is kept of how a job ended, and of the runs that failed before: bounded text that can always be sent."""

import hashlib
import traceback
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from taskq.errors import DecodeError, JobTimeout
from taskq.job import Delivery

End = Literal["returned", "failed", "quarantined", "lost", "cancelled", "expired", "discarded"]

MESSAGE_LIMIT = 10_000
HISTORY_LIMIT = 10
REASON_LIMIT = 300
"""Characters of why a run did not count."""

Redact = Callable[[str], str]
"""Takes out of a message or traceback what must not be stored."""


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
    build: str = ""
    """The code that ran it, if that has a name."""


class Uncounted(Struct, frozen=True, omit_defaults=True):
    """A run that neither ended its job nor cost it an attempt: put off by its handler, or cut off with its worker."""

    reason: str
    attempt: int
    at: float
    """When it was fetched, in seconds since the epoch, by the backend's clock."""
    build: str = ""


class LastSeen(Struct, frozen=True, omit_defaults=True):
    """A worker that died under a job, as it last told of itself."""

    worker: str
    host: str
    pid: int
    seconds: float
    """For how long the job had run there."""
    at: float | None = None
    """When it told so, in seconds since the epoch, by the Store's clock."""
    memory: int = 0
    """Bytes of resident memory; 0 where the system does not tell."""
    beside: tuple[str, ...] = ()
    """The tasks of other jobs it ran, ten at most."""
    stack: str = ""
    """Where the job was; empty when it had only just begun."""


class History(Struct, frozen=True, omit_defaults=True):
    """What a job's earlier runs came to; travels with it as ``Nack.error``."""

    errors: list[ErrorReport] = []
    uncounted: list[Uncounted] = []
    failing_since: float | None = None
    parked_since: float | None = None
    parked: Annotated[int, Meta(ge=0)] = 0
    """How often the task was unknown."""
    snoozed: Annotated[int, Meta(ge=0)] = 0
    """How often it has put itself off."""
    turn: str | None = None
    """The limit in whose line it stood, and whose turn it is."""


class Ended(Struct, frozen=True, omit_defaults=True):
    """How a job ended; encoded as what ``Results`` keeps and dead letters carry."""

    end: End
    value: msgspec.Raw = msgspec.Raw(b"null")
    reason: str = ""
    errors: list[ErrorReport] = []
    """Newest last, at most ten, only the newest with its traceback."""
    uncounted: list[Uncounted] = []
    """Runs that cost no attempt; newest last, at most ten."""
    attempt: int = 1
    """The one it ended with."""
    losses: int = 0
    """Workers that died under it, or were cut off."""
    worker: LastSeen | None = None
    """The last of them, when the job was set aside for it and something is known of it."""
    build: str = ""
    """The code that ended it, if that has a name."""


class Death(Struct, frozen=True):
    """What a task named by ``on_dead`` is told of the job that was set aside."""

    id: str
    task: str
    queue: str
    end: End
    reason: str
    attempts: int
    error: ErrorReport | None = None
    """Of its last failed run, if it ever failed by itself."""
    worker: LastSeen | None = None
    """The last worker that died under it, when that is what it was set aside for and something is known of it."""


def last_words(seen: LastSeen) -> str:
    """What is known of a worker that died, in a line."""
    memory = f" in {seen.memory / 2**20:.0f} MiB" if seen.memory else ""
    beside = f" beside {', '.join(seen.beside)}" if seen.beside else ""
    return f"{seen.worker} (process {seen.pid} on {seen.host}) had run it for {seen.seconds:.1f} s{memory}{beside}"


def history_of(delivery: Delivery) -> History:
    """What the earlier runs left behind."""
    return read_history(delivery.error)


def read_history(data: bytes | None) -> History:
    """What ``Nack.error`` held; empty when there is nothing, or nothing that can be read."""
    if data is None:
        return History()
    try:
        return msgspec.json.decode(data, type=History)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return History()


def read_outcome(data: bytes) -> Ended:
    """The end that ``data`` tells of; raises DecodeError for bytes that tell of none."""
    try:
        return msgspec.json.decode(data, type=Ended)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"the outcome cannot be read: {error}") from error


def lengthened(
    history: History, delivery: Delivery, error: Exception, redact: Redact | None = None, build: str = ""
) -> list[ErrorReport]:
    """The reports of a job's failed runs with this one's, the newest last."""
    earlier = [msgspec.structs.replace(report, traceback="") for report in history.errors[-HISTORY_LIMIT + 1 :]]
    return [*earlier, report(error, attempt=delivery.attempt, at=delivery.now, redact=redact, build=build)]


def put_off(
    history: History, delivery: Delivery, reason: str, redact: Redact | None = None, build: str = ""
) -> list[Uncounted]:
    """The runs that did not count with this one, the newest last."""
    text = reason if redact is None else redacted(redact, reason)
    run = Uncounted(text[:REASON_LIMIT], delivery.attempt, delivery.now, build)
    return [*history.uncounted[-HISTORY_LIMIT + 1 :], run]


def report(error: Exception, *, attempt: int, at: float, redact: Redact | None = None, build: str = "") -> ErrorReport:
    """An error as bounded text: what fits in a message of 10,000 characters and a traceback of as many."""
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    text = "" if isinstance(error, JobTimeout) else "".join(traceback.format_exception(error))
    message = text_of(error)
    if redact is not None:
        message, text = redacted(redact, message), redacted(redact, text)
    return ErrorReport(
        type=name,
        message=message[:MESSAGE_LIMIT],
        attempt=attempt,
        at=at,
        traceback=_sendable(text[-MESSAGE_LIMIT:]),
        fingerprint=hashlib.sha256("\n".join([name, *frames]).encode()).hexdigest()[:16],
        build=build,
    )


def text_of(error: object) -> str:
    """What an error says, as text that can be sent; an error may fail at that, too."""
    try:
        return _sendable(str(error))
    except Exception as failure:  # noqa: BLE001 - the code is the handler's
        return f"(its text cannot be had: {type(failure).__name__})"


def line_of(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {text_of(error)}"


def redacted(redact: Redact, text: str) -> str:
    """What the hook leaves of a text."""
    try:
        return redact(text)
    except Exception:  # noqa: BLE001 - better nothing than what was to be taken out
        return "(taken out: the redact hook failed)"


def _sendable(text: str) -> str:
    # File names and the like may hold halves of surrogate pairs, which UTF-8 refuses.
    return text.encode("utf-8", "backslashreplace").decode()
