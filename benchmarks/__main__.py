"""Runs every question, writes ``results.json`` and the table in both ``README.md``."""

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import sleepers, sqlite, startup, worker_line
from benchmarks.measure import Comparison, Side, machine

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: written by python -m benchmarks -->\n", "<!-- end of table -->\n"
QUESTIONS = {"startup": startup, "worker_line": worker_line, "sleepers": sleepers, "sqlite": sqlite}


def main(names: Sequence[str]) -> None:
    """Ask these questions, or all; only a run of all is written down."""
    results = [comparison for name in names or QUESTIONS for comparison in QUESTIONS[name].run()]
    table = render(results)
    print(table)
    if not names:
        results_file = HERE / "results.json"
        results_file.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine(), "results": results})))
        for readme in (HERE / "README.md", HERE.parent / "README.md"):
            head, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
            _, _, tail = rest.partition(END)
            readme.write_text(head + BEGIN + table + END + tail, encoding="utf-8")


def render(results: Sequence[Comparison]) -> str:
    """One row a question: medians with their spread, the ratio, the bar."""
    lines = ["| question | taskq | beside it | ratio | bar | met |", "|---|---|---|---|---|---|"]
    for result in results:
        ours, *others = result.sides
        beside = "; ".join(f"{side.name} {figure(side, result.unit)}" for side in others)
        met = "yes" if result.met else "**no**"
        cells = (result.question, figure(ours, result.unit), beside, f"{result.ratio:.2f} ×", result.bar, met)
        lines.append(f"| {' | '.join(cells)} |")
    where = ", ".join(f"{name} {value}" for name, value in machine().items())
    return "\n".join([*lines, "", f"Median (least–most) of the rounds. {where}.", ""])


def figure(side: Side, unit: str) -> str:
    """A median with its spread."""
    digits = 0 if side.median >= 1000 else 2
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(side.figures), side.median, max(side.figures)))
    return f"{middle} {unit} ({low}–{high})"


if __name__ == "__main__":
    main(sys.argv[1:])
