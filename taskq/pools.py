"""Pools: which queues go together, in what order they are fetched, and how much of a worker is theirs."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from typing import Annotated, Literal

from msgspec import Meta, Struct

from taskq.broker import Finding
from taskq.errors import ConfigError
from taskq.job import QUEUE_NAME

UNNAMED = ""
"""The pool of a worker whose pools nobody has configured."""
DEFAULT = "default"
"""The broker that the setting ``url`` names, and all queues are on that no pool puts on another one."""

_GLOB = re.compile(r"[\w.*?-]{1,64}", re.ASCII)

Count = Annotated[int, Meta(ge=1)]
Target = Annotated[float, Meta(ge=0, le=1e9)]


class PoolSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a worker: so many slots for these queues, which nothing else in the worker takes up."""

    queues: tuple[str, ...]
    """Names; globs (``mail-*``), whose queues may appear at any time; and with ``!`` in front what no glob takes in.
    The first one goes first."""
    slots: Count | None = None
    """Jobs it runs at once; None: as many as the setting ``slots`` says."""
    weights: Mapping[str, Count] = {}
    """Of these of the queues, 1 for the others: each goes first in proportion to its weight, and none starves."""
    targets: Mapping[str, Target] = {}
    """Seconds that a job of these of the queues should wait at most: the one whose next job has the least of them left
    goes first. Queues without one come after all that have one."""
    executor: Literal["thread", "process"] | None = None
    """Where sync handlers run in it, whatever their tasks say."""
    threads: Count | None = None
    """Sync handlers it runs at once; None: as many as the setting ``threads`` says."""
    processes: Count | None = None
    """CPU handlers it runs at once; None: as many as the setting ``processes`` says."""
    broker: str = DEFAULT
    """Which of the ``brokers`` its queues are on: for those who defer to them, too."""

    @property
    def selection(self) -> "Selection":
        """Its queues."""
        return Selection(self.queues, self.weights, self.targets)


class Selection(Struct, frozen=True):
    """Some queues, and the order in which they are fetched."""

    patterns: Sequence[str]
    weights: Mapping[str, int] = {}
    targets: Mapping[str, float] = {}
    before: Sequence["Selection"] = ()
    """Those of pools that stand before: what one of them takes in is not in this one."""

    @property
    def names(self) -> Sequence[str]:
        """Those it names."""
        return [pattern for pattern in self.patterns if not _is_glob(pattern) and pattern[0] != "!"]

    @property
    def globs(self) -> Sequence[str]:
        """The patterns whose queues have to be looked for."""
        return [pattern for pattern in self.patterns if _is_glob(pattern) and pattern[0] != "!"]

    def pattern_of(self, queue: str) -> str | None:
        """What takes this queue in, None when nothing does: its name before any glob."""
        if any(earlier.pattern_of(queue) is not None for earlier in self.before):
            return None
        if queue in self.patterns:
            return queue
        if any(fnmatchcase(queue, pattern[1:]) for pattern in self.patterns if pattern[0] == "!"):
            return None
        return next((glob for glob in self.globs if fnmatchcase(queue, glob)), None)

    def among(self, known: Iterable[str]) -> Mapping[str, float]:
        """Those it names, and those of the known queues that its globs take in: in its order, with their weights, or
        their targets where it has some."""
        found: dict[str, list[str]] = {pattern: [] for pattern in self.patterns}
        for queue in sorted({*known, *self.names}):
            pattern = self.pattern_of(queue)
            if pattern is not None:
                found[pattern].append(queue)
        said, unsaid = (self.targets, inf) if self.targets else (self.weights, 1)
        return {queue: said.get(pattern, unsaid) for pattern, queues in found.items() for queue in queues}


def in_turn(weights: Mapping[str, float], chance: Callable[[], float]) -> Sequence[str]:
    """An order in which each queue is the first with the probability of its share of the weights, and so on."""
    return sorted(weights, key=lambda queue: chance() ** (1 / weights[queue]), reverse=True)


def check_pools(pools: Mapping[str, PoolSettings], brokers: Mapping[str, str]) -> None:
    """Raises ConfigError for pools and named brokers that make no sense, by themselves or together."""
    for name, pool in pools.items():
        check_name("pool", name)
        _check_pool(name, pool)
        if pool.broker not in (DEFAULT, *brokers):
            known = ", ".join([DEFAULT, *brokers])
            raise ConfigError(f"pool {name!r}: no broker is named {pool.broker!r} (known: {known}): add it to brokers")
    for name in brokers:
        check_name("broker", name)
        if name == DEFAULT:
            raise ConfigError("broker 'default' is the one that the setting 'url' names: give this one another name")
        if not any(pool.broker == name for pool in pools.values()):
            raise ConfigError(f"broker {name!r}: no queue is on it: say broker = {name!r} in the pool of its queues")
    check_takers(pools, [queue for pool in pools.values() for queue in pool.selection.names])


def check_name(what: str, name: str) -> None:
    """Raises ConfigError for a name that is not made as a queue's is."""
    if not re.match(QUEUE_NAME, name):
        raise ConfigError(f"{what} {name!r}: its name is made of up to 64 letters, digits, '_', '.' and '-'")


def check_takers(pools: Mapping[str, PoolSettings], queues: Iterable[str]) -> None:
    """Raises ConfigError for one of these queues that several pools take."""
    for queue in queues:
        taker_of(queue, pools)


def home_of(queue: str, pools: Mapping[str, PoolSettings]) -> str:
    """The broker that a queue, or what a glob takes in, is on."""
    takers = (pool.broker for pool in pools.values() if pool.selection.pattern_of(queue) is not None)
    return next(takers, DEFAULT)


def selection_of(name: str, pools: Mapping[str, PoolSettings]) -> Selection:
    """The queues of a pool among others: one that several take in is the first's, so that it has one set of slots."""
    names = [*pools]
    before = [pools[each].selection for each in names[: names.index(name)]]
    return Selection(pools[name].queues, pools[name].weights, pools[name].targets, before)


def warnings_of(pools: Mapping[str, PoolSettings], queues: Iterable[str]) -> Sequence[Finding]:
    """What an operator should know of pools, and of these queues of the tasks."""
    if not pools:
        return ()
    findings = [
        Finding(f"queue {queue}", "warning", "no pool takes it, so nobody works on it here: add it to one's queues")
        for queue in queues
        if taker_of(queue, pools) is None
    ]
    for name, pool in pools.items():
        for glob in pool.selection.globs:
            if not any(pool.selection.pattern_of(queue) == glob for queue in queues):
                message = f"{glob!r} takes in no queue of a task: nothing to do if others defer to its queues"
                findings.append(Finding(f"pool {name}", "warning", message))
    return findings


def named_pool(name: str, pools: Mapping[str, PoolSettings]) -> PoolSettings:
    """The pool of this name; raises ConfigError when there is none."""
    if name not in pools:
        known = ", ".join(pools) or "none: write [pools.NAME] in taskq.toml, or App(pools=...)"
        raise ConfigError(f"no pool is named {name!r} (configured: {known})")
    return pools[name]


def taker_of(queue: str, pools: Mapping[str, PoolSettings]) -> str | None:
    """The pool that takes this queue, None when none does. Raises ConfigError when several do."""
    takers = [name for name, pool in pools.items() if pool.selection.pattern_of(queue) is not None]
    if len(takers) > 1:
        raise ConfigError(
            f"pools {takers[0]!r} and {takers[1]!r} both take queue {queue!r}: leave it to one of them, "
            f"with '!{queue}' among the queues of the other if a glob takes it in"
        )
    return takers[0] if takers else None


def check_patterns(where: str, patterns: Sequence[str]) -> None:
    """Raises ConfigError, with ``where`` in front, for what takes in no queue, or says so twice."""
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if not (_GLOB.fullmatch(bare) if _is_glob(bare) else re.match(QUEUE_NAME, bare)):
            raise ConfigError(
                f"{where}: {pattern!r} fits no queue: write a queue's name, a glob of letters, digits, '_', '.', "
                "'-', '*' and '?', or one of these behind '!'"
            )
        if patterns.count(pattern) > 1:
            raise ConfigError(f"{where}: {pattern!r} is there twice: once is enough")
        if f"!{pattern}" in patterns:
            raise ConfigError(f"{where}: it takes {pattern!r} and leaves it out: drop one of them")
    selection = Selection(patterns)
    if not selection.names and not selection.globs:
        raise ConfigError(f"{where}: it takes no queue: name some, or '*' for all")


def _check_pool(name: str, pool: PoolSettings) -> None:
    check_patterns(f"pool {name!r}", pool.queues)
    selection = pool.selection
    for said, patterns in (("weights", pool.weights), ("targets", pool.targets)):
        for pattern in patterns:
            if pattern not in (*selection.names, *selection.globs):
                raise ConfigError(f"pool {name!r}: {said} name {pattern!r}, which is not among its queues")
    if pool.weights and pool.targets:
        raise ConfigError(f"pool {name!r}: weights and targets both say which queue goes first: drop one of them")


def _is_glob(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern
