"""What was found, as JSON and as Markdown."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.beside import Row, Table
from benchmarks.measure import Comparison, Series

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
BEGIN, END = "<!-- table: written by python -m benchmarks -->\n", "<!-- end of table -->\n"


class Section(Struct):
    """One part of the suite, as it was last measured."""

    taken: str
    """When, in UTC."""
    profile: str
    machine: dict[str, str]
    versions: dict[str, dict[str, str]]
    comparisons: list[Comparison]
    tables: list[Table] = []
    missing: dict[str, str] = {}
    """Sides that could not be measured, and why."""


def stored() -> dict[str, Section]:
    """All sections as they were last measured."""
    if not RESULTS.exists():
        return {}
    return msgspec.json.decode(RESULTS.read_bytes(), type=dict[str, Section])


def write(sections: Mapping[str, Section]) -> None:
    """The raw figures, and the tables made from them."""
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(sections)) + b"\n")
    summary, whole = bars_of(sections), [bars_of(sections), *(page(name, one) for name, one in sections.items())]
    for readme, text in ((HERE.parent / "README.md", summary), (HERE / "README.md", "\n".join(whole))):
        head, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
        _, _, tail = rest.partition(END)
        readme.write_text(head + BEGIN + text + END + tail, encoding="utf-8")


def bars_of(sections: Mapping[str, Section]) -> str:
    """Every bar with its ratio, met or not."""
    lines = ["| question | taskq | beside it | ratio | bar | met |", "|---|---|---|---|---|---|"]
    for section in sections.values():
        for result in section.comparisons:
            ours, *others = result.sides
            beside = "; ".join(f"{series.name} {spread(series, result.unit)}" for series in others)
            told = "not measured" if result.ratio is None else f"{result.ratio:.2f} ×"
            met = "yes" if result.met else "–" if result.ratio is None else "**no**"
            cells = (result.question, spread(ours, result.unit), beside or "–", told, result.bar, met)
            lines.append(f"| {' | '.join(cells)} |")
    taken = "; ".join(f"{name}: {one.profile} profile, {one.taken}" for name, one in sections.items())
    return "\n".join([*lines, "", f"Median (least–most) of the rounds. {taken}.", ""])


def page(name: str, section: Section) -> str:
    """A section's tables, and what they were taken on."""
    lines = [f"### {name}", ""]
    if section.tables:
        lines += [f"![the medians of {name}, with the least and the most](plots/{name}.svg)", ""]
    for table in section.tables:
        lines += [f"**{table.title}**", "", *rows_of(table), ""]
    if section.missing:
        lines += ["Not measured: " + "; ".join(f"{side} ({why})" for side, why in section.missing.items()) + ".", ""]
    machine = ", ".join(f"{what} {value}" for what, value in section.machine.items())
    versions = "; ".join(
        f"{side}: " + ", ".join(f"{package} {version}" for package, version in found.items())
        for side, found in section.versions.items()
        if found
    )
    return "\n".join([*lines, f"{machine}. {versions}".strip(), ""])


def rows_of(table: Table) -> list[str]:
    """A Markdown table with the columns for which there are figures."""
    shown = [(figure, heading) for figure, heading in table.columns if any(row.figures(figure) for row in table.rows)]
    lines = [f"| | {' | '.join(heading for _, heading in shown)} | ledger |", "|---" * (len(shown) + 2) + "|"]
    for row in table.rows:
        cells = [row.side, *(cell(row, figure) for figure, _ in shown), ledger(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def cell(row: Row, figure: str) -> str:
    """The median with its spread, or why there is none."""
    figures = row.figures(figure)
    return spread(Series(row.side, figures), "") if figures else "–"


def ledger(row: Row) -> str:
    """How many runs counted, and what was wrong with the others."""
    if row.skipped:
        return row.skipped
    dirty = f"; not counted: {len(row.dirty)} ({row.dirty[-1]})" if row.dirty else ""
    return f"{sum(map(bool, row.rounds))} of {len(row.rounds)} clean{dirty}".replace("|", "/")


def spread(series: Series, unit: str) -> str:
    """A median with the least and the most."""
    digits = 0 if series.median >= 100 else 2
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(series.figures), series.median, max(series.figures)))
    if low == high:
        return f"{middle} {unit}".strip()
    return f"{middle} {unit} ({low}–{high})".replace("  ", " ")
