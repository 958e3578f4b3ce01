# pyright: basic, reportMissingImports=false
"""The tables as pictures: one a section, PNG and SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.beside import Row, Table
from benchmarks.report import Section

PLOTS = Path(__file__).parent / "plots"
OURS, LIMIT, OTHERS = "#c2410c", "#a8a29e", "#475569"
FIGURES = {"rate": "jobs/s", "p50": "p50, ms", "waiting": "jobs/s"}
WIDTH, ROW, HEAD = 7.0, 0.26, 0.8


def draw(sections: Mapping[str, Section]) -> None:
    """A picture of each section that has tables: the median of each side, with the least and the most."""
    PLOTS.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "taskq", "font.size": 8}):
        for name, section in sections.items():
            shown = [(table, found) for table in section.tables if (found := rows_of(table)) and len(found) > 1]
            if shown:
                _save(name, shown)


def rows_of(table: Table) -> Sequence[Row]:
    """The rows that have the table's first figure, the best on top."""
    figure = table.columns[0][0]
    measured = [row for row in table.rows if row.figures(figure)]
    return sorted(measured, key=lambda row: row.median(figure), reverse=figure.startswith("p"))


def _save(name: str, shown: Sequence[tuple[Table, Sequence[Row]]]) -> None:
    heights = [HEAD + ROW * len(rows) for _, rows in shown]
    picture = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    axes = picture.subplots(len(shown), 1, height_ratios=heights, squeeze=False)
    for axis, (table, rows) in zip(axes[:, 0], shown, strict=True):
        _bars(axis, table, rows)
    picture.savefig(PLOTS / f"{name}.png", dpi=110, metadata={"Software": None})
    picture.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})


def _bars(axis: Axes, table: Table, rows: Sequence[Row]) -> None:
    figure, heading = table.columns[0]
    medians = [row.median(figure) for row in rows]
    spread = [
        [middle - min(row.figures(figure)) for row, middle in zip(rows, medians, strict=True)],
        [max(row.figures(figure)) - middle for row, middle in zip(rows, medians, strict=True)],
    ]
    colours = [{"taskq": OURS, "limit": LIMIT}.get(row.kind, OTHERS) for row in rows]
    names = [row.side for row in rows]
    drawn = axis.barh(names, medians, xerr=spread, color=colours, error_kw={"elinewidth": 0.8, "ecolor": "#111827"})
    axis.bar_label(drawn, labels=[f" {middle:,.{0 if middle >= 100 else 2}f}" for middle in medians])
    axis.set_title(f"{table.title} ({heading})", loc="left", fontsize=9)
    axis.margins(x=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
