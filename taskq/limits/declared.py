"""What a task says of its limits, and how a call is counted by them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, TypeGuard, cast

from msgspec import Struct

from taskq.codec import Codec
from taskq.errors import ConfigError
from taskq.limits.limit import Concurrency, RateLimit, text_of
from taskq.limits.several import Both, Either

Limit = RateLimit | Concurrency


class AnyOf(Struct, frozen=True):
    """Alternatives: the first that has room counts a run, or else the one whose turn comes soonest."""

    options: tuple[tuple[Limit, ...], ...]
    """Of each all the limits, the slowest first."""


Declared = Limit | AnyOf
Combined = Limit | Either[Any] | Both
"""As it is spelled: limits, ``a & b``, ``a | b``."""


class Limits(Struct, frozen=True):
    """A task's limits, and where in the Store each of them counts a call."""

    ways: Sequence[tuple[Limit, ...]]
    """Those that a run needs together, in each of the ways that it may begin."""
    store_key: Callable[[Limit, tuple[Any, ...], dict[str, Any]], str]
    """Raises ConfigError when it cannot be said."""


def ways_of(limits: Sequence[Declared]) -> Sequence[tuple[Limit, ...]]:
    """All the ways to hold them, each without a limit that jobs wait for in the queue."""
    options = [limit.options if isinstance(limit, AnyOf) else ((limit,),) for limit in limits if not waits(limit)]
    return [tuple(limit for option in way for limit in option) for way in product(*options)]


def waits(limit: Declared) -> TypeGuard[Concurrency]:
    """Whether jobs wait for it in the queue, as one group, without being delivered."""
    return isinstance(limit, Concurrency) and limit.overlap == "wait"


def each_of(limits: Sequence[Declared]) -> Iterator[Limit]:
    """All of them, alternatives too."""
    for limit in limits:
        if isinstance(limit, AnyOf):
            for option in limit.options:
                yield from option
        else:
            yield limit


def check_limits(value: object) -> tuple[Declared, ...]:
    """The limits of a task, the slowest first, as that refuses most; raises ConfigError for what cannot be one's."""
    given = tuple(cast("Sequence[object]", value)) if isinstance(value, Sequence) else (value,)
    parts = [part for one in given for part in (one.parts if isinstance(one, Both) else [one])]
    limits = [_any_of(part) if isinstance(part, Either) else _one(part) for part in parts]  # pyright: ignore[reportUnknownArgumentType] - checked there
    if sum(map(waits, limits)) > 1:
        raise ConfigError(
            "limits: a job waits in the queue for one Concurrency at most; give the other overlap='skip', or enter it "
            "in the handler with `async with`"
        )
    return tuple(sorted(limits, key=_slowness, reverse=True))


def _one(part: object) -> Limit:
    if not isinstance(part, RateLimit | Concurrency):
        raise ConfigError(
            f"limits: {part!r} is no limit of a task: give RateLimit and Concurrency as they are, without of(), in a "
            "list or combined by & and |"
        )
    return part


def _any_of(either: object) -> AnyOf:
    options = [tuple(sorted(option, key=_slowness, reverse=True)) for option in _options(either)]
    known: dict[str, Limit] = {}
    for limit in (limit for option in options for limit in option):
        if waits(limit):
            raise ConfigError(
                "limits: jobs wait for a Concurrency in the queue, before it is known which limit of an | has room; "
                "give it overlap='skip', or enter the limits in the handler with `async with a | b as granted`"
            )
        if isinstance(limit, RateLimit) and limit.retries:
            raise ConfigError("limits: a budget of retries is no alternative to another limit: give it beside the |")
        if known.setdefault(limit.store_key("", ""), limit) != limit:
            raise ConfigError("limits: two limits of an | would count as one: give each a name= of its own")
    if len(set(options)) < len(options):
        raise ConfigError("limits: an | names the same limit twice: drop one, or give each a name= of its own")
    return AnyOf(tuple(options))


def _options(holding: object) -> list[tuple[Limit, ...]]:
    """The ways to hold it, each a number of limits to be held together."""
    match holding:
        case Either():
            return [option for part in holding.parts for option in _options(part)]  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType, reportUnknownVariableType] - checked there
        case Both():
            ways = product(*map(_options, holding.parts))
            return [tuple(limit for option in way for limit in option) for way in ways]
        case _:
            return [(_one(holding),)]


def _slowness(limit: Declared) -> float:
    match limit:
        case RateLimit():
            return limit.seconds / limit.n
        case Concurrency():
            return 0.0
        case AnyOf():
            return min(max(map(_slowness, option)) for option in limit.options)


def check_arguments(limits: Sequence[Declared], task: str, names: Sequence[str] | frozenset[str]) -> None:
    """Raises ConfigError for a key made of what the task does not take."""
    for limit in each_of(limits):
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
