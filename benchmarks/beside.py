"""Sides beside each other: rounds interleaved A B A B, in each round one figure of each kind from each side."""

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct

from benchmarks.driver import Uncounted
from benchmarks.environments import Missing
from benchmarks.sides import Kind, Side

Once = Callable[[Side], Mapping[str, float]]
"""Measures a side once."""


class Row(Struct):
    """What was found of one side: for each round its figures, or nothing where no run counted."""

    side: str
    kind: Kind = "asyncio"
    rounds: list[dict[str, float]] = []
    dirty: list[str] = []
    """Why runs did not count."""
    skipped: str = ""
    """Why it was not measured at all."""

    def figures(self, figure: str) -> list[float]:
        """All rounds' of this name."""
        return [one[figure] for one in self.rounds if figure in one]

    def median(self, figure: str) -> float:
        """NaN where there is none."""
        found = self.figures(figure)
        return statistics.median(found) if found else float("nan")


class Table(Struct):
    """One question asked of many sides."""

    key: str
    """For instance ``redis/noop``."""
    title: str
    columns: list[tuple[str, str]]
    """The figures shown: name, heading."""
    rows: list[Row]

    def row(self, side: str) -> Row | None:
        """What was found of one side, if anything counted."""
        return next((row for row in self.rows if row.side == side and any(row.rounds)), None)


Near = Callable[[Table], Collection[str]] | None
"""Chooses the sides that are measured again when everybody has had FIRST rounds; None: all."""
FIRST = 2


def side_by_side(
    key: str,
    title: str,
    columns: Sequence[tuple[str, str]],
    sides: Sequence[Side],
    once: Once,
    rounds: int,
    near: Near = None,
) -> Table:
    """Measure each side once a round. A run that does not count is repeated once."""
    rows = [Row(side.name, side.kind) for side in sides]
    table = Table(key, title, list(columns), rows)
    asked = {side.name for side in sides}
    for number in range(rounds):
        if number == FIRST and near is not None:
            asked &= set(near(table))
        for side, row in zip(sides, rows, strict=True):
            if not row.skipped and side.name in asked:
                began = time.monotonic()
                row.rounds.append(_counted(side, row, once))
                said = ", ".join(f"{name} {value:,.4g}" for name, value in row.rounds[-1].items())
                took = f"{said or row.skipped or row.dirty[-1]} ({time.monotonic() - began:.1f} s)"
                print(f"  {key} {number + 1}/{rounds} {side.name}: {took}", flush=True)
    return table


def _counted(side: Side, row: Row, once: Once) -> dict[str, float]:
    for _ in range(2):
        try:
            return dict(once(side))
        except Missing as reason:
            row.skipped = str(reason)
            break
        except Uncounted as reason:
            row.dirty.append(str(reason))
    return {}


def ratio(ours: Row, other: Row, figure: str) -> float:
    """The median of the rounds' own ratios."""
    pairs = [
        one[figure] / two[figure]
        for one, two in zip(ours.rounds, other.rounds, strict=False)
        if figure in one and figure in two and two[figure]
    ]
    return statistics.median(pairs) if pairs else float("nan")
