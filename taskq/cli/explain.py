"""``taskq explain``: why a job does not run, or ran twice."""

import time
from collections.abc import Iterator, Sequence

import anyio
import click

from taskq.app import App
from taskq.cli.durations import from_now
from taskq.cli.exits import FAILED
from taskq.cli.output import json_option, one_line, url_option, write_json
from taskq.explain import Explanation, Reason

WIDEST = 300


@click.command()
@click.argument("id")
@click.option("--queue", help="Where it was, to see how a job ended that is gone.")
@url_option
@json_option
def explain(id: str, queue: str | None, url: str | None, as_json: bool) -> int:
    """Tell why the job ID does not run, or ran twice.

    Exits with 1 when there is no trace of it.
    """
    found = anyio.run(_ask, url, id, queue)
    if as_json:
        write_json(found)
    else:
        task = "" if found.task is None else f" ({found.task})"
        click.secho(one_line(f"{found.id}{task} is {found.state}", WIDEST), bold=True)
        for line in tree(found.reasons, time.time()):
            click.echo(line)
    return FAILED if found.state == "unknown" else 0


async def _ask(url: str | None, id: str, queue: str | None) -> Explanation:
    async with App(url) as app:
        return await app.explain(id, queue)


def tree(reasons: Sequence[Reason], now: float, margin: str = "") -> Iterator[str]:
    """Reasons below one another, each with what it is so for."""
    for number, reason in enumerate(reasons, 1):
        last = number == len(reasons)
        below = margin + ("   " if last else "│  ")
        when = "" if reason.at is None else f" {_moment(reason.at, now)}"
        yield f"{margin}{'└─' if last else '├─'} {one_line(reason.text + when, WIDEST)}"
        if reason.remedy:
            yield f"{below}{click.style(one_line(f'→ {reason.remedy}', WIDEST), fg='green')}"
        yield from tree(reason.because, now, below)


def _moment(moment: float, now: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(moment))} ({from_now(moment, now)})"
