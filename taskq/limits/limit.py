"""``RateLimit`` and ``Concurrency``: what may be said of a task, and entered inside a handler."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import msgspec
from msgspec import Struct

from taskq.codec import Codec
from taskq.errors import ConfigError
from taskq.limits.holding import Granted, Holding, Refused
from taskq.limits.permit import Permit, Place
from taskq.limits.rates import Bucket, Leaky, Rate, Window
from taskq.limits.several import Both, Either, leave, remember
from taskq.retryafter import RetryAfter

Kind = Literal["window", "bucket", "leaky", "points"]
Key = tuple[str, ...] | Callable[..., str | int] | None
"""Names of arguments, or a function called with all of them by name; None: one count for all calls."""

T = TypeVar("T")

WAIT = 5.0
"""Seconds for a turn or a place, where nothing else is said."""

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
    recover: float | timedelta | None = None
    """Seconds in which it grows back to ``n``, when each :meth:`pause` is to halve it, too."""

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
        if self.recover is not None and not (_number(self._recovers) and 0 < self._recovers < 1e9):
            raise ConfigError(f"RateLimit(recover={self.recover!r}): give seconds above 0, or a timedelta")
        if self.recover is not None and self.rate.most < 2:
            raise ConfigError("RateLimit(recover=): one at a time cannot be halved: say RateLimit(10, per=10 * per)")
        if type(self.retries) is not bool:
            raise ConfigError(f"RateLimit(retries={self.retries!r}): True for a budget of retries")
        check_key(self.key)
        check_name(self.name)

    @property
    def seconds(self) -> float:
        """``per``, in seconds."""
        return self.per.total_seconds() if isinstance(self.per, timedelta) else self.per

    @property
    def _recovers(self) -> float:
        return self.recover.total_seconds() if isinstance(self.recover, timedelta) else self.recover or 0.0

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

    def of(self, *values: Any, cost: float = 1.0, wait: float = WAIT) -> Permit:
        """What ``async with`` enters: the count of these key values, waiting up to ``wait`` seconds for its turn.

        Raises LimitExceeded on entering when that is later; a handler that lets it pass runs again later, uncounted.
        """
        if self.retries:
            raise ConfigError("a budget of retries is for limits= of a task: enter a limit without retries=True")
        key = self.store_key(named(self.name), text_of(values, Codec()))
        return Permit(self.rate, key, cost=cost, wait=wait, recover=self._recovers)

    async def pause(self, retry_after: RetryAfter) -> None:
        """Grant nothing for so many seconds, until this moment, or as a ``Retry-After`` header says."""
        await self.of().pause(retry_after)

    @property
    def wait(self) -> float:
        """Seconds that entering it waits, without ``of()``."""
        return WAIT

    async def soon(self) -> float | None:
        """In how many seconds its turn comes, None where nobody knows; nothing is taken."""
        return await self.of().soon()

    async def claim(self, patience: float) -> Granted["RateLimit"] | Refused:
        """Take it if its turn comes within so many seconds. For ``&`` and ``|``."""
        claimed = await self.of().claim(patience)
        return claimed if isinstance(claimed, Refused) else Granted(self, claimed.held, claimed.wait)

    async def enter(self) -> Granted["RateLimit"]:
        """Take it, and return when it counts; raises LimitExceeded. For ``&`` and ``|``."""
        return Granted(self, (await self.of().enter()).held)

    async def __aenter__(self) -> "RateLimit":
        return remember(await self.enter())

    async def __aexit__(self, *error: Any) -> None:
        await leave()

    def __and__(self, other: Holding[object]) -> Both:
        return Both([self, other])

    def __or__(self, other: Holding[T]) -> "Either[RateLimit | T]":
        return Either([self, other])


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

    def of(self, *values: Any, wait: float = WAIT) -> Place:
        """What ``async with`` enters: a place among those of these key values, waiting up to ``wait`` seconds for it.

        Raises LimitExceeded on entering when none is free; a handler that lets it pass runs again later, uncounted.
        """
        return Place(self.store_key(named(self.name), text_of(values, Codec())), self.n, wait)

    @property
    def wait(self) -> float:
        """Seconds that entering it waits, without ``of()``."""
        return WAIT

    async def soon(self) -> float | None:
        """In how many seconds its turn comes, None where nobody knows; nothing is taken."""
        return await self.of().soon()

    async def claim(self, patience: float) -> Granted["Concurrency"] | Refused:
        """Take it if its turn comes within so many seconds. For ``&`` and ``|``."""
        claimed = await self.of().claim(patience)
        return claimed if isinstance(claimed, Refused) else Granted(self, claimed.held, claimed.wait)

    async def enter(self) -> Granted["Concurrency"]:
        """Take it, and return when it counts; raises LimitExceeded. For ``&`` and ``|``."""
        return Granted(self, (await self.of().enter()).held)

    async def __aenter__(self) -> "Concurrency":
        return remember(await self.enter())

    async def __aexit__(self, *error: Any) -> None:
        await leave()

    def __and__(self, other: Holding[object]) -> Both:
        return Both([self, other])

    def __or__(self, other: Holding[T]) -> "Either[Concurrency | T]":
        return Either([self, other])


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
