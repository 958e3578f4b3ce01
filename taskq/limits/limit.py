"""``RateLimit`` and ``Concurrency``: what may be said of a task, and entered inside a handler."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeGuard, cast

import msgspec
from msgspec import Struct

from taskq.codec import Codec
from taskq.errors import ConfigError
from taskq.limits.holding import Both, Holding, Permit, Place, leave, remember
from taskq.limits.rates import Bucket, Leaky, Rate, Window
from taskq.retryafter import RetryAfter

Kind = Literal["window", "bucket", "leaky", "points"]
Key = tuple[str, ...] | Callable[..., str | int] | None
"""Names of arguments, or a function called with all of them by name; None: one count for all calls."""

_LONGEST = 200


class RateLimit(Struct, frozen=True):
    """``n`` in ``per`` seconds: ``RateLimit(100, per=60, key=("customer",))``.

    ``kind``: ``window`` (in any ``per`` seconds), ``bucket`` (in each minute, hour … of the clock), ``leaky``
    (``burst`` at once, then evenly), ``points`` (the same, for calls that cost more than one). Never more than that; a
    window may grant 1/64 less. ``name``: limits of one name count together; without one each task counts for itself.
    ``retries=True``: a budget of retries, asked for every attempt of a job but its first. ``n=inf`` limits nothing.
    Raises ConfigError for numbers that make no sense.
    """

    n: float
    per: float | timedelta = msgspec.field(default=1.0)
    key: Key = None
    kind: Kind = "window"
    burst: float | None = None
    """What ``leaky`` and ``points`` grant at once after a rest; default: ``n``."""
    name: str | None = None
    retries: bool = False
    """First attempts pass, and are not counted."""

    def __post_init__(self) -> None:
        per, drains = self.seconds, self.kind in ("leaky", "points")
        if not _number(self.n) or self.n <= 0 or (self.n < 1 and not drains):
            raise ConfigError(f"RateLimit({self.n!r}): give how many may begin in the time, at least 1")
        if not (_number(per) and 0.01 <= per < 1e9):
            raise ConfigError(f"RateLimit(per={self.per!r}): give seconds of at least 0.01, or a timedelta")
        if self.kind not in ("window", "bucket", "leaky", "points"):
            raise ConfigError(f"RateLimit(kind={self.kind!r}): choose 'window', 'bucket', 'leaky' or 'points'")
        if self.burst is not None and not (drains and _number(self.burst) and self.burst >= 1):
            raise ConfigError(f"RateLimit(burst={self.burst!r}): a number of at least 1, for kinds leaky and points")
        if type(self.retries) is not bool:
            raise ConfigError(f"RateLimit(retries={self.retries!r}): True for a budget of retries")
        check_key(self.key)
        check_name(self.name)

    @property
    def seconds(self) -> float:
        """``per``, in seconds."""
        return self.per.total_seconds() if isinstance(self.per, timedelta) else self.per

    @property
    def rate(self) -> Rate:
        """How it counts."""
        match self.kind:
            case "window":
                return Window(self.n, self.seconds)
            case "bucket":
                return Bucket(self.n, self.seconds)
            case _:
                return Leaky(self.n if self.burst is None else self.burst, self.seconds / self.n)

    def store_key(self, name: str, text: str) -> str:
        """Where it is counted. The number is not in it, so that a deploy can change that."""
        kind = f"retries:{self.kind}" if self.retries else self.kind
        return f"limit:{self.name or name}:{kind}:{self.seconds:g}:{text}"

    def of(self, *values: Any, cost: float = 1.0, wait: float = 5.0) -> Permit:
        """What ``async with`` enters: the count of these key values, waiting up to ``wait`` seconds for its turn.

        Raises LimitExceeded on entering when that is later; a handler that lets it pass runs again later, uncounted.
        """
        if self.retries:
            raise ConfigError("a budget of retries is for limits= of a task: enter a limit without retries=True")
        return Permit(self.rate, self.store_key(named(self.name), text_of(values, Codec())), cost, wait)

    async def pause(self, retry_after: RetryAfter) -> None:
        """Grant nothing for so many seconds, until this moment, or as a ``Retry-After`` header says."""
        await self.of().pause(retry_after)

    async def __aenter__(self) -> None:
        remember(await self.of().__aenter__())

    async def __aexit__(self, *error: Any) -> None:
        await leave(*error)

    def __and__(self, other: Holding) -> Both:
        return Both([self, other])


class Concurrency(Struct, frozen=True):
    """At most ``n`` at once: ``Concurrency(1, key=("newsletter",))``.

    On a task, calls beyond it wait in the queue without being delivered; with ``overlap="skip"`` they are discarded
    when their turn comes. As jobs of one group they are counted per queue; with 1 they run in order, and a job that
    waits for its retry keeps its place. Names and keys are those of RateLimit.
    """

    n: int
    key: Key = None
    overlap: Literal["wait", "skip"] = "wait"
    name: str | None = None

    def __post_init__(self) -> None:
        if type(self.n) is not int or self.n < 1:
            raise ConfigError(f"Concurrency({self.n!r}): give how many may run at once, at least 1")
        if self.overlap not in ("wait", "skip"):
            raise ConfigError(f"Concurrency(overlap={self.overlap!r}): choose 'wait' or 'skip'")
        check_key(self.key)
        check_name(self.name)

    def store_key(self, name: str, text: str) -> str:
        """Where its places are."""
        return f"limit:{self.name or name}:places:{text}"

    def of(self, *values: Any, wait: float = 5.0) -> Place:
        """What ``async with`` enters: a place among those of these key values, waiting up to ``wait`` seconds for it.

        Raises LimitExceeded on entering when none is free; a handler that lets it pass runs again later, uncounted.
        """
        return Place(self.store_key(named(self.name), text_of(values, Codec())), self.n, wait)

    async def __aenter__(self) -> None:
        remember(await self.of().__aenter__())

    async def __aexit__(self, *error: Any) -> None:
        await leave(*error)

    def __and__(self, other: Holding) -> Both:
        return Both([self, other])


Limit = RateLimit | Concurrency


def waits(limit: Limit) -> TypeGuard[Concurrency]:
    """Whether jobs wait for it in the queue, as one group, without being delivered."""
    return isinstance(limit, Concurrency) and limit.overlap == "wait"


def check_limits(value: object) -> tuple[Limit, ...]:
    """The limits of a task, the slowest first; raises ConfigError for what cannot be one's.

    A grant of one is lost when the next one refuses, and the slowest refuses most.
    """
    given = tuple(cast("Sequence[object]", value)) if isinstance(value, Sequence) else (value,)
    limits = [limit for limit in given if isinstance(limit, RateLimit | Concurrency)]
    if len(limits) < len(given):
        raise ConfigError(f"limits={value!r}: give a list of RateLimit and Concurrency")
    if sum(map(waits, limits)) > 1:
        raise ConfigError(
            "limits: a job waits in the queue for one Concurrency at most; give the other overlap='skip', or enter it "
            "in the handler with `async with`"
        )
    return tuple(sorted(limits, key=_slowness, reverse=True))


class Limits(Struct, frozen=True):
    """A task's limits, and where in the Store each of them counts a call."""

    limits: Sequence[Limit]
    store_key: Callable[[Limit, tuple[Any, ...], dict[str, Any]], str]
    """Raises ConfigError when it cannot be said."""


def _slowness(limit: Limit) -> float:
    return limit.seconds / limit.n if isinstance(limit, RateLimit) else 0.0


def check_arguments(limits: Sequence[Limit], task: str, names: Sequence[str] | frozenset[str]) -> None:
    """Raises ConfigError for a key made of what the task does not take."""
    for limit in limits:
        for name in () if limit.key is None or callable(limit.key) else limit.key:
            if name not in names:
                known = ", ".join(sorted(names)) or "it has none"
                raise ConfigError(f"task {task}: a limit's key is made of {name!r}, none of its arguments ({known})")


def key_text(limit: Limit, task: str, arguments: Mapping[str, Any], codec: Codec) -> str:
    """The text of a call's key; ``arguments`` include the defaults. Raises ConfigError when a key function fails."""
    if limit.key is None:
        return ""
    if not callable(limit.key):
        return text_of([arguments[name] for name in limit.key], codec)
    try:
        found: object = limit.key(**arguments)
    except Exception as error:
        raise ConfigError(
            f"task {task}: the key function of a limit raised {type(error).__name__}: {error}; it is called with all "
            f"arguments by name ({', '.join(arguments)})"
        ) from error
    if type(found) not in (str, int):
        raise ConfigError(f"task {task}: the key function of a limit answered {found!r}; give text or a number")
    return text_of([found], codec)


def text_of(values: Sequence[Any], codec: Codec) -> str:
    """Equal values give equal text: their JSON, or its digest where that is long."""
    text = codec.encode_canonical(values)[1:-1]
    return text.decode() if len(text) <= _LONGEST else hashlib.sha256(text).hexdigest()


def named(name: str | None) -> str:
    """The name of a limit that stands by itself; raises ConfigError when it has none."""
    if name is None:
        raise ConfigError("a limit that is entered in a handler needs a name=, by which all processes know it")
    return name


def check_name(name: object) -> None:
    """Raises ConfigError for a name that is no short text."""
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable()):
        raise ConfigError(f"limit name {name!r}: give text of 1 to 100 characters")


def check_key(key: object) -> None:
    """Raises ConfigError for what is no key."""
    if key is None or callable(key):
        return
    parts = cast("tuple[object, ...]", key) if isinstance(key, tuple) else ()
    if not parts or not all(isinstance(part, str) for part in parts):
        raise ConfigError(f"limit key {key!r}: give a tuple of argument names, or a function of the arguments")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
