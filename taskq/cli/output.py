"""What commands print: tables with colour on a terminal, plain columns elsewhere, JSON when asked for."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import click
import msgspec

from taskq.broker import Finding
from taskq.config import Config

STYLES: Mapping[str, str] = {
    "ready": "cyan",
    "leased": "yellow",
    "later": "blue",
    "dead": "red",
    "paused": "magenta",
    "failed": "red",
    "quarantined": "red",
    "lost": "red",
    "revived": "green",
    "conflict": "yellow",
    "error": "red",
    "warning": "yellow",
    "ok": "green",
}
"""Words that mean the same colour wherever they stand in a table."""

_PASSWORD = re.compile(r"(?<=:)[^:@/]+(?=@)")

WIDEST = 80
"""Characters of a cell: an error's first line is enough to tell which one it is."""

F = TypeVar("F", bound=Callable[..., object])


def json_option(command: F) -> F:
    """``--json``, as the parameter ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")(command)


def url_option(command: F) -> F:
    """``--url``."""
    return click.option("--url", help="The broker to talk to; default: what the settings say.")(command)


def without_password(url: str) -> str:
    """A URL that may be shown."""
    return _PASSWORD.sub("***", url)


def place_of(config: Config) -> str:
    """Which broker was asked, and who said so: the answer to "why is nothing there?"."""
    source = config.sources["url"]
    said = "--url" if source == "App(...)" else source
    return f"{without_password(config.settings.url)} ({said})"


def styled(word: str) -> str:
    """A word in its colour."""
    return click.style(word, fg=STYLES.get(word))


def write_findings(findings: Iterable[Finding], *, as_json: bool) -> None:
    """A line for each: how bad, of what, what, and the remedy if there is one."""
    for finding in findings:
        if as_json:
            write_json(finding)
        else:
            remedy = f": {finding.remedy}" if finding.remedy else ""
            click.echo(f"{styled(finding.level)}: {finding.subject}: {finding.message}{remedy}")


def write_json(value: object) -> None:
    """One line of JSON."""
    click.echo(msgspec.json.encode(value))


def write_table(titles: Sequence[str], rows: Iterable[Sequence[object]], widest: int = WIDEST) -> None:
    """A table with a line of titles; longer cells are cut."""
    cells = [[one_line(str(value), widest) for value in row] for row in rows]
    if sys.stdout.isatty():
        _draw(titles, cells)
        return
    widths = [max(len(row[column]) for row in (titles, *cells)) for column in range(len(titles))]
    for row in (titles, *cells):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def one_line(text: str, widest: int = WIDEST) -> str:
    """Text of unknown origin that cannot break a table or drive the terminal."""
    line = "".join(character if character.isprintable() else " " for character in text[: widest + 1])
    return line if len(line) <= widest else line[: widest - 1] + "…"


def _draw(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Here and not above: a worker draws no tables, and must not carry what draws them.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column, title in enumerate(titles):
        numbers = all(row[column].isdecimal() for row in rows)
        # An id in two lines cannot be copied: all others give way.
        whole = column == 0 and all(len(row[column]) <= WIDEST // 2 for row in rows)
        table.add_column(title, justify="right" if numbers else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell.partition(" ")[0], "")) for cell in row))
    Console().print(table)
