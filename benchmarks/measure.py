"""Interleaved rounds, medians and ratios."""

import os
import platform
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version

from msgspec import Struct

Round = Callable[[], float]
"""Runs one round in a process or loop of its own and answers its figure; raises when its ledger is not clean."""


class Series(Struct, frozen=True):
    """One side of a comparison: its figures, in the order of the rounds."""

    name: str
    figures: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.figures)


class Comparison(Struct, frozen=True):
    """One question, its sides, and the ratio that answers it."""

    question: str
    unit: str
    sides: list[Series]
    ratio: float | None
    """The first side to the best of the others, the median of the rounds' own ratios; None: there was no other."""
    bar: str
    met: bool


def compare(
    question: str,
    unit: str,
    sides: Mapping[str, Round],
    *,
    rounds: int,
    bar: str,
    met: Callable[[float], bool] = lambda _ratio: True,
    first: Callable[[float], bool] = lambda _figure: True,
) -> Comparison:
    """Run the sides in turn, so many rounds; the ratio of a round compares the first side with the best of the others.

    ``met`` judges the ratio, ``first`` the first side's own median.
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            figures[name].append(run())
            print(f"  {question} {number + 1}/{rounds} {name}: {figures[name][-1]:,.4g} {unit}", flush=True)
    ours, *others = figures.values()
    best = max(others, key=statistics.median) if "/s" in unit else min(others, key=statistics.median)
    ratio = statistics.median(one / other for one, other in zip(ours, best, strict=True))
    met_all = met(ratio) and first(statistics.median(ours))
    return Comparison(question, unit, [Series(name, values) for name, values in figures.items()], ratio, bar, met_all)


def in_new_process(module: str, *arguments: str) -> float:
    """The number that ``python -m module arguments`` prints last."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    packages = {name: version(name) for name in ("anyio", "msgspec", "huey")}
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        **packages,
    }
