"""``taskq logs``: what a job logged and printed."""

import time
from collections.abc import AsyncGenerator, Sequence

import anyio
import click

from taskq.app import App
from taskq.cli.exits import FAILED
from taskq.cli.output import json_option, one_line, styled, url_option, write_json
from taskq.job import JobRef
from taskq.joblog import kept_lines
from taskq.joblog.lines import LONGEST, Captured, Line
from taskq.pools import Selection
from taskq.worker.register import workers

EVERY = 1.0
"""Seconds between two looks: workers write as often."""
LAST_WORDS = 15.0
"""Seconds that an ended job's worker has to write its last lines, before it is taken for dead."""


@click.command("logs")
@click.argument("id")
@click.option("--queue", help="Where it was: a job that is gone is searched for only in queues that are known now.")
@click.option("--follow", "-f", is_flag=True, help="Go on with each new line until the job has ended.")
@click.option("--last", "-n", type=click.IntRange(0), help="So many lines of those before.")
@url_option
@json_option
def logs_command(id: str, queue: str | None, follow: bool, last: int | None, url: str | None, as_json: bool) -> int:
    """Show what the job ID logged and printed, if its task says capture=.

    Exits with 1 when nothing is kept of it.
    """
    return anyio.run(_show, url, id, queue, follow, last, as_json)


async def _show(url: str | None, id: str, queue: str | None, follow: bool, last: int | None, as_json: bool) -> int:
    async with App(url) as app:
        ref = await _place(app, id, queue)
        if ref is not None and await _print(app, ref, follow, last, as_json):
            return 0
    click.echo(f"{id}: nothing is kept; a task that says capture=100_000 keeps so many bytes of each job", err=True)
    return FAILED


async def _print(app: App, ref: JobRef, follow: bool, last: int | None, as_json: bool) -> int:
    """Answers how many lines there were."""
    shown = 0
    async for missed, lines in _looks(app, ref, follow):
        if missed and not as_json:
            click.echo(f"({missed} lines before these are not kept)")
        for line in lines if last is None else lines[max(0, len(lines) - last) :]:
            write_json(_fields(line)) if as_json else click.echo(_text(line))
        shown, last = shown + len(lines), None
    return shown


async def _place(app: App, id: str, queue: str | None) -> JobRef | None:
    """Where the job is, or where lines of it are kept."""
    if queue is None and (record := await app.admin.find(id)) is not None:
        return JobRef(record.job.queue, id)
    queues = [queue] if queue is not None else [stats.queue for stats in await app.admin.stats()]
    if queue is None:
        entries = await workers(app.store, app.backend.hints)
        queues += [name for entry in entries for name in entry.queues]
        queues += [*Selection(app.settings.queues).names, "default"]
    for name in dict.fromkeys(queues):
        if await kept_lines(app.store, JobRef(name, id)) or await app.lookup(JobRef(name, id)):
            return JobRef(name, id)
    return None


async def _looks(app: App, ref: JobRef, follow: bool) -> AsyncGenerator[tuple[int, Sequence[Line]]]:
    """New lines at each look, and how many gave way before; the last look is when the job's worker has said its end."""
    shown, waited, was_live = 0, 0.0, False
    while True:
        record = await app.lookup(ref) if follow else None
        found = await kept_lines(app.store, ref) or Captured([])
        yield max(0, found.first - shown), found.lines[max(0, shown - found.first) :]
        shown = found.behind
        live = record is not None and record.state != "dead"
        was_live = was_live or live
        more = found.open if found.lines else was_live
        if not follow or not (live or (more and waited < LAST_WORDS)):
            return
        # Nobody tells: the store has no waiting.
        await anyio.sleep(EVERY)
        waited = 0.0 if live else waited + EVERY


def _text(line: Line) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(line.at))
    name = f" {one_line(line.logger)}:" if line.logger else ""
    return f"{at} #{line.attempt} {styled(one_line(f'{line.source:<7}'))}{name} {one_line(line.text, LONGEST)}"


def _fields(line: Line) -> dict[str, object]:
    return {name: getattr(line, name) for name in ("at", "attempt", "source", "logger", "text")}
