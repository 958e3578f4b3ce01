"""``python -m benchmarks [SECTION…] [--full]`` measures all sections, or these, and writes down what it found."""

import argparse
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from msgspec import Struct
from msgspec.structs import replace

from benchmarks import (
    defer,
    executor,
    features,
    grounds,
    latency,
    processing,
    recovery,
    scaling,
    sleepers,
    sqlite,
    startup,
    waiting,
    worker_line,
)
from benchmarks.bars import BARS, judge, near
from benchmarks.beside import Near, Table
from benchmarks.driver import prepare, versions
from benchmarks.environments import Missing
from benchmarks.grounds import Ground
from benchmarks.measure import machine
from benchmarks.plots import draw
from benchmarks.report import Section, bars_of, stored, write
from benchmarks.sides import POSTGRES, REDIS, SQS, Side


class Profile(Struct, frozen=True):
    """How much is measured."""

    name: str
    rounds: int
    """Of a question with a bar."""
    asides: int
    """Of one without."""
    near: Near
    """Who has all of these rounds."""
    slow: bool
    """Also the peers that take long."""
    paced: int
    """Jobs of which latencies are told, on an idle system."""
    loaded: float
    """Seconds of load."""
    waiting: Sequence[int]
    """How long queues are."""
    growth: int
    """Jobs that one worker runs."""


SHORT = Profile("short", 5, 2, near, False, 100, 1.0, (1_000, 50_000), 50_000)
FULL = Profile("full", 5, 5, None, True, 300, 3.0, (1_000, 100_000, 1_000_000), 1_000_000)


def core(profile: Profile) -> Section:
    """The core on memory and SQLite."""
    modules = (startup, worker_line, sleepers, sqlite, executor)
    found = [comparison for module in modules for comparison in module.run(profile.rounds)]
    return Section(now(), profile.name, machine(), {}, found)


Questions = Callable[[Profile, Ground, Sequence[Side]], Sequence[Table]]


def beside_peers(
    profile: Profile, opened: Callable[[], AbstractContextManager[Ground]], chosen: Sequence[Side], ask: Questions
) -> Section:
    """One server, taskq and its peers on it."""
    sides: list[Side] = []
    missing: dict[str, str] = {}
    with opened() as ground:
        for side in chosen:
            if side.slow and not profile.slow:
                missing[side.name] = "slow: in the full profile only"
                continue
            try:
                prepare(side, ground)
            except Missing as reason:
                missing[side.name] = str(reason)
            else:
                sides.append(side)
        tables = list(ask(profile, ground, sides))
    found = {side.name: versions(side) for side in sides}
    return Section(now(), profile.name, machine(), found, judge(tables), tables, missing)


def questions(profile: Profile, ground: Ground, sides: Sequence[Side]) -> Sequence[Table]:
    """All that is asked on a server."""
    fast = [side for side in sides if side.kind in ("taskq", "asyncio")]
    others = [side for side in sides if side.kind == "foreign"]
    ours = [side for side in sides if side.kind == "taskq"]
    noop = processing.ask(ground, sides, "noop", profile.rounds, profile.near)
    defers = [defer.ask(ground, sides, how, profile.rounds, profile.near) for how in defer.WAYS]
    rates = {side.name: half_load(noop, defers[1], side.name) for side in fast}
    return [
        noop,
        processing.ask(ground, sides if profile.slow else ours, "nap", profile.rounds),
        *(processing.ask(ground, fast if profile.slow else ours, kind, profile.asides) for kind in ("payload", "cpu")),
        *defers,
        latency.idle(ground, [*fast, *others], profile.rounds, profile.paced, profile.near),
        latency.loaded(ground, fast if profile.slow else ours, profile.asides, profile.loaded, rates),
        features.ask(ground, profile.asides),
        waiting.ask(ground, profile.waiting, profile.asides),
        waiting.growth(ground, profile.growth, 1),
        recovery.ask(ground, profile.asides),
        *(scaling.ask(ground, kind, rounds) for kind, rounds in (("cpu", profile.rounds), ("noop", profile.asides))),
    ]


def few_questions(profile: Profile, ground: Ground, sides: Sequence[Side]) -> Sequence[Table]:
    """What is asked on SQS."""
    judged = {bar.ours for bar in BARS}
    waited_for = [side for side in sides if side.name in judged or side.kind == "asyncio"]
    return [
        processing.ask(ground, sides, "noop", profile.rounds, profile.near),
        *(defer.ask(ground, sides, how, profile.asides) for how in defer.WAYS),
        latency.idle(ground, waited_for, profile.rounds, profile.paced, profile.near),
    ]


def half_load(noop: Table, flight: Table, side: str) -> float:
    """Jobs a second that keep a worker half busy, and leave its producer room on the same machine."""
    rows = [table.row(side) for table in (noop, flight)]
    worked, deferred = (row.median("rate") if row else 0.0 for row in rows)
    return max(min(worked / 2, deferred / 4), 1.0)


SECTIONS: Mapping[str, Callable[[Profile], Section]] = {
    "core": core,
    "redis": lambda profile: beside_peers(profile, grounds.redis, REDIS, questions),
    "postgres": lambda profile: beside_peers(profile, grounds.postgresql, POSTGRES, questions),
    "sqs": lambda profile: beside_peers(profile, grounds.fast_sqs, SQS, few_questions),
}


def now() -> str:
    """To the minute."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def main() -> None:
    """Measure, and write each section as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "sections", nargs="*", choices=[*SECTIONS, []], help=f"of {', '.join(SECTIONS)}; all by default"
    )
    parser.add_argument("--full", action="store_true", help="larger sizes, more rounds, and the slow peers, too")
    parser.add_argument(
        "--once", action="store_true", help="one round of each, to see that it all works; implies --dry"
    )
    parser.add_argument("--dry", action="store_true", help="write nothing down")
    said = parser.parse_args()
    profile = FULL if said.full else SHORT
    if said.once:
        profile = replace(profile, rounds=1, asides=1)
    for name in said.sections or SECTIONS:
        section = SECTIONS[name](profile)
        print(bars_of({name: section}))
        if not (said.dry or said.once):
            known = {**stored(), name: section}
            found = {one: known[one] for one in SECTIONS if one in known}
            write(found)
            draw(found)


if __name__ == "__main__":
    main()
