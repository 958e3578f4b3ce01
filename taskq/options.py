"""What a task and a call may say about themselves: typed for checkers, refused at once when it makes no sense."""

import difflib
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, TypeGuard, get_args

import msgspec
from msgspec import Struct

from taskq.broker import Guarantee
from taskq.debounce import Debounce
from taskq.defaults import MOST_CAPTURED
from taskq.errors import ConfigError
from taskq.job import QUEUE_NAME, OnConflict
from taskq.limits.declared import Combined, check_limits
from taskq.middleware import Middleware
from taskq.retry import Retry
from taskq.tags import check_tags
from taskq.unique import KeySpec
from taskq.versions import Upcast

Seconds = float | timedelta
Executor = Literal["loop", "thread", "process"]
Idempotence = Literal["guarded"] | bool
OnOutage = Literal["spool", "raise", "drop"]

_CHOICES: Mapping[str, tuple[object, ...]] = {
    "on_conflict": get_args(OnConflict),
    "delivery": get_args(Guarantee),
    "executor": get_args(Executor),
    "idempotent": (True, False, "guarded"),
    "transaction": (True, False),
    "on_outage": get_args(OnOutage),
}
_DEBOUNCED = frozenset({"delay", "run_at", "on_conflict", "unique_until"})
_FILLABLE = frozenset({"priority", "expires_in"})
"""What a queue's tasks may have in common of what their calls say."""
_TASK = re.compile(r"[A-Za-z_][\w.:<>-]{0,199}")


class Options(TypedDict, total=False):
    """What one call may say: ``task.options(delay=60)``.

    A task gives defaults for all but ``id``, ``tx`` and ``attempts``.
    """

    id: str
    """The job's id; deferring it again while it lives adds nothing. Default: a new UUIDv7."""
    queue: str
    priority: int
    """Larger first, within a queue."""
    delay: Seconds
    """Not before so much later."""
    run_at: datetime
    """Not before this moment; needs a time zone."""
    expires_in: Seconds
    """How long after it became due the job may still start."""
    expires_at: datetime
    """The moment after which the job must not start, by the broker's clock; needs a time zone."""
    unique: KeySpec
    """Which live jobs are the same: True: equal arguments; names: equal values of these; a string: this very key."""
    on_conflict: OnConflict
    """With a held key: ``return`` the holder, ``replace`` the waiting holder's call, or ``raise`` Conflict."""
    unique_until: Literal["start", "success", "end"] | Seconds
    """What frees the key: see ``taskq.job.Job.unique_until``."""
    debounce: Seconds | Debounce
    """Calls of one unique key (default: equal arguments) run once, so long after the last of them."""
    group: KeySpec
    """Jobs of one group run at most ``group_limit`` at once; spelled like ``unique``."""
    group_limit: int
    """1: one at a time, in order."""
    tenant: str
    """Whose job it is: the tenants of a queue take turns."""
    tags: Sequence[str] | str
    """Words to find and to pause jobs by; a call's are added to its task's."""
    headers: Mapping[str, str]
    attempts: int
    """Overrides the task's ``retry.attempts``."""
    timeout: Seconds
    """Seconds a run may take; a task without one is never cut off."""
    tx: Any
    """The caller's own open transaction: the job exists from its commit on, or never."""


class TaskOptions(Options, total=False):
    """What a task may say besides the defaults of its calls."""

    name: str
    """What is stored; default: module and function."""
    retry: Retry | int
    """A number means that many attempts on the default curve."""
    delivery: Guarantee
    idempotent: Idempotence
    """Whether running twice is running once: by nature (True), by a key or ledger (``guarded``), or not (False)."""
    keep: Seconds
    """How long outcomes are kept."""
    keep_dead: Seconds
    soft_timeout: Seconds
    """Seconds after which a run is asked to stop: ``current().stopping``, heeded by its next checkpoint."""
    idle_timeout: Seconds
    """Seconds that a run may go without a sign of life, such as ``current().heartbeat()`` or ``progress()``."""
    executor: Executor
    """Where it runs: coroutines in the loop, sync functions in a thread unless ``process`` is said."""
    transaction: bool
    """Run in a transaction of the broker's own database: writes, defers, outcome and ack commit together."""
    max_losses: int
    """Workers that may die under a job before it is quarantined."""
    on_dead: str
    """The task that is told, by one argument of type ``Death``, of each job of this one that was set aside."""
    on_outage: OnOutage
    """What becomes of its calls while the broker is out of reach: ``spool`` where the app has one (else they raise),
    ``raise`` in any case, or ``drop`` what may be lost."""
    middleware: Sequence[Middleware]
    version: int
    """Of its arguments, from 1: workers that know only an older one leave newer calls to others, uncounted."""
    upcast: Upcast
    """Brings an older call's arguments up to this version: ``upcast(version, arguments)`` answers the arguments."""
    limits: Sequence[Combined] | Combined
    """How many calls may begin in a time, or run at once: see ``taskq.RateLimit`` and ``taskq.Concurrency``; ``a | b``
    is the first of them that has room."""
    precondition: Callable[..., bool | Awaitable[bool]]
    """Asked before each run, in its lease and with its arguments: False discards the job."""
    capture: int
    """Bytes of what each job logs and prints that are kept, the last ones, for ``taskq logs``; 0: none."""


class CallOptions(Struct, frozen=True, kw_only=True):
    """Checked options of a call."""

    id: str | None = None
    queue: str = "default"
    priority: int = 0
    delay: float = 0.0
    run_at: float | None = None
    expires_in: float | None = None
    expires_at: float | None = None
    unique: KeySpec = False
    on_conflict: OnConflict = "return"
    unique_until: Literal["start", "success", "end"] | float = "end"
    debounce: Debounce | None = None
    group: KeySpec = False
    group_limit: int = 1
    tenant: str | None = None
    tags: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    attempts: int | None = None
    timeout: float | None = None
    tx: Any = None
    said: frozenset[str] = frozenset()
    """Which of these the task or the call named."""


def merge(base: CallOptions, given: Mapping[str, Any]) -> CallOptions:
    """``base`` with what was ``given``; raises ConfigError for what is unknown, unfit or contradicts itself."""
    for name in given:
        refuse_unknown(name, Options)
    changed = {name: check_option(name, value) for name, value in given.items()}
    if changed.get("delay") and changed.get("run_at") is not None:
        raise ConfigError("delay and run_at contradict each other: give one")
    for one, other in (("expires_in", "expires_at"), ("expires_at", "expires_in")):
        if changed.get(one) is not None and changed.setdefault(other, None) is not None:
            raise ConfigError("expires_in and expires_at contradict each other: give one")
    if "delay" in changed:
        changed.setdefault("run_at", None)
    elif changed.get("run_at") is not None:
        changed["delay"] = 0.0
    if "tags" in changed:
        changed["tags"] = check_tags((*base.tags, *changed["tags"]))
    if "debounce" in changed:
        changed |= {"delay": changed["debounce"].seconds[0], "on_conflict": "replace", "unique_until": "start"}
        changed.setdefault("unique", base.unique or True)
    if (base.debounce or "debounce" in given) and not _DEBOUNCED.isdisjoint(given):
        raise ConfigError(f"debounce says when a call runs and what the next one does: drop {', '.join(_DEBOUNCED)}")
    merged = msgspec.structs.replace(base, **changed, said=base.said.union(changed))
    if merged.expires_at is not None and merged.run_at is not None and merged.expires_at < merged.run_at:
        raise ConfigError("expires_at is before run_at: the job would expire before it is due")
    if ("on_conflict" in given or "unique_until" in given) and merged.unique is False:
        raise ConfigError("on_conflict and unique_until say what to do with a unique key: give unique=, too")
    if "group_limit" in given and merged.group is False:
        raise ConfigError("group_limit says how many of a group run at once: give group=, too")
    return merged


def filled(options: CallOptions, defaults: Mapping[str, Any]) -> CallOptions:
    """The options with these defaults where neither the task nor the call said anything."""
    missing = {name: value for name, value in defaults.items() if name in _FILLABLE and name not in options.said}
    return msgspec.structs.replace(options, **missing) if missing else options


def refuse_unknown(name: str, known: type) -> None:
    """Raises ConfigError, with the name that was probably meant."""
    names = known.__annotations__
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names))}"
        raise ConfigError(f"unknown option {name!r}; {hint}")


def check_queue(name: object) -> str:
    """A queue's name, fit for every backend; raises ConfigError."""
    if not isinstance(name, str) or not re.match(QUEUE_NAME, name):
        raise ConfigError(f"queue name {name!r}: use up to 64 letters, digits, '_', '.' and '-', the first no sign")
    return name


def check_task(name: object) -> str:
    """A task's name; raises ConfigError."""
    if not isinstance(name, str) or not _TASK.fullmatch(name):
        raise ConfigError(f"task name {name!r}: use up to 200 letters, digits, '_', '.', ':' and '-'")
    return name


def seconds(value: object, name: str) -> float:
    """A finite number of seconds of at least 0, from a number or timedelta; raises ConfigError."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    # A whole number beyond what a float holds compares, but does not convert.
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number <= sys.float_info.max:
        raise ConfigError(f"{name}={value!r}: give seconds of at least 0, or a timedelta")
    return float(number)


def check_option(name: str, value: Any) -> Any:
    """The value of an option as it is kept; raises ConfigError for one that does not fit."""
    match name:
        case "queue":
            return check_queue(value)
        case "name" | "on_dead":
            return check_task(value)
        case "timeout" | "idle_timeout":
            bound = seconds(value, name)
            if not bound:
                raise ConfigError(f"{name}=0 would cancel every run at once: give seconds, or drop it")
            return bound
        case "delay" | "expires_in" | "soft_timeout" | "keep" | "keep_dead":
            return seconds(value, name)
        case "run_at" | "expires_at":
            if not isinstance(value, datetime) or value.tzinfo is None:
                raise ConfigError(f"{name}={value!r}: give a datetime with a time zone, as in datetime.now(UTC)")
            return value.timestamp()
        case "debounce":
            return value if isinstance(value, Debounce) else Debounce(value)
        case "unique_until":
            return value if value in ("start", "success", "end") else seconds(value, name)
        case "on_conflict" | "delivery" | "executor" | "idempotent" | "transaction" | "on_outage":
            if value not in _CHOICES[name]:
                raise ConfigError(f"{name}={value!r}: choose {' or '.join(map(repr, _CHOICES[name]))}")
        case "retry":
            return value if isinstance(value, Retry) else Retry(value)
        case "middleware":
            if not isinstance(value, Sequence) or not all(map(callable, value)):  # pyright: ignore[reportUnknownArgumentType] - checked here
                raise ConfigError(f"middleware={value!r}: give a list of functions of (current, handler)")
            return tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - checked above
        case "tags":
            return check_tags(value)
        case "limits":
            return check_limits(value)
        case "precondition":
            if not callable(value):
                raise ConfigError(
                    f"precondition={value!r}: give a function of the task's arguments that answers a bool"
                )
        case "unique" | "group":
            return _key_spec(name, value)
        case "group_limit" | "attempts" | "max_losses" | "version":
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name}={value!r}: give a whole number of at least 1")
        case "capture":
            if type(value) is not int or not 0 <= value <= MOST_CAPTURED:
                raise ConfigError(f"capture={value!r}: give a number of bytes from 0 to {MOST_CAPTURED:,}")
        case "upcast":
            if not callable(value):
                raise ConfigError(f"upcast={value!r}: give a function of (version, arguments)")
        case "priority":
            if type(value) is not int or not -(2**31) <= value < 2**31:
                raise ConfigError(f"priority={value!r}: give a whole number of 32 bits; larger runs first")
        case "headers":
            if not isinstance(value, Mapping) or not all(map(_is_text, [*value, *value.values()])):  # pyright: ignore[reportUnknownArgumentType] - checked here
                raise ConfigError(f"headers={value!r}: they map text to text")
            return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - checked above
        case "id" | "tenant":
            if not _is_text(value) or not 0 < len(value) <= 200:
                raise ConfigError(f"{name}={value!r}: give text of 1 to 200 characters")
        case _:
            pass
    return value


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is text that every backend can keep: no NUL, no half of a surrogate pair."""
    try:
        return isinstance(value, str) and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _key_spec(name: str, value: object) -> KeySpec:
    if isinstance(value, bool) or (_is_text(value) and 0 < len(value) <= 500):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(part, str) for part in value):  # pyright: ignore[reportUnknownVariableType] - checked here
        return tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - checked above
    raise ConfigError(f"{name}={value!r}: give True, a key of 1 to 500 characters, or a tuple of argument names")
