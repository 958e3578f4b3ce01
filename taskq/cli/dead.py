"""``taskq dead``: list, revive and purge dead letters."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import anyio
import click

from taskq.app import App
from taskq.broker import Admin, Record
from taskq.call import batched
from taskq.cli.audit import by_option, noted
from taskq.cli.dead_letters import PAGE, Selection, count, select
from taskq.cli.durations import duration, from_now, rate
from taskq.cli.output import json_option, url_option, write_json, write_table
from taskq.cli.record import ended_of, record_json, trouble_of
from taskq.errors import TaskqError
from taskq.job import JobRef

Verb = Literal["revive", "purge"]
F = TypeVar("F", bound=Callable[..., object])

TITLES = ("id", "queue", "task", "end", "died", "error")

NOTHING = "No dead letter fits: `taskq dead list` shows them all."
UNKNOWN = "unknown: no dead letter has that id; `taskq explain ID` tells where a job is"

LONG_WORK = 1000
"""Dead letters from which on a progress bar is drawn."""

_SELECTION = (
    click.argument("ids", metavar="[ID]...", nargs=-1),
    click.option("--queue", "queues", multiple=True, help="Of this queue; may be given more than once."),
    click.option("--task", help="Of this task."),
    click.option("--error", metavar="TEXT", help="Whose last error contains this text."),
    click.option("--fingerprint", help="Whose last error has this fingerprint."),
    click.option("--older-than", type=duration, metavar="30d", help="Set aside longer ago than this."),
    click.option("--tenant", help="Of this tenant."),
    click.option("--tag", help="Of this tag."),
    click.option("--after", metavar="ID", help="Go on behind this id."),
)


def selection_options(command: F) -> F:
    """Everything that says which dead letters are meant."""
    for option in reversed(_SELECTION):
        command = option(command)
    return command


def action_options(command: F) -> F:
    """Everything that says how they are dealt with."""
    for option in (
        click.option("--limit", type=click.IntRange(1), help="So many at most."),
        click.option("--all", "everything", is_flag=True, help="Needed when nothing says which."),
        click.option("--rate", type=rate, metavar="50/s", help="So many a second at most."),
        click.option("--dry-run", is_flag=True, help="Only list those it would be."),
    ):
        command = option(command)
    return by_option(command)


@click.group()
def dead() -> None:
    """List, revive and purge dead letters.

    Dead letters are jobs that were set aside with their errors.
    """


@dead.command("list")
@selection_options
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="So many at most.")
@url_option
@json_option
def list_dead(url: str | None, as_json: bool, **selection: Any) -> None:
    """List dead letters by rising id."""
    found = anyio.run(_list, url, Selection(**selection))
    if found or as_json:
        write_dead(found, as_json=as_json)
    else:
        click.echo("No dead letter fits.")


@dead.command()
@selection_options
@action_options
@url_option
@json_option
def revive(**options: Any) -> int:
    """Make dead letters ready again.

    They start anew at their first attempt. Exits with 1 when one could not be revived because another
    job holds its unique key by now.
    """
    return _run("revive", **options)


@dead.command()
@selection_options
@action_options
@url_option
@json_option
def purge(**options: Any) -> int:
    """Remove dead letters for good."""
    return _run("purge", **options)


def write_dead(records: Sequence[Record], *, as_json: bool) -> None:
    """Dead letters as JSON or a table."""
    if as_json:
        for record in records:
            write_json(record_json(record))
        return
    now = time.time()
    write_table(TITLES, [_row(record, now) for record in records])


def _row(record: Record, now: float) -> Sequence[object]:
    job, ended = record.job, ended_of(record)
    end = ended.end if ended is not None else ""
    return (job.id, job.queue, job.task, end, from_now(record.due, now), trouble_of(record))


async def _list(url: str | None, selection: Selection) -> Sequence[Record]:
    async with App(url) as app:
        return [record async for record in select(app.admin, selection, time.time(), seen=lambda: None)]


class Tally:
    """What was done so far."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.last: str | None = None
        """The last id that was dealt with."""


def _run(
    verb: Verb,
    *,
    by: str,
    url: str | None,
    as_json: bool,
    everything: bool,
    rate: float | None,
    dry_run: bool,
    **selection: Any,
) -> int:
    selected = Selection(**selection)
    if not (selected.narrows or everything or dry_run):
        raise click.UsageError("this would be every dead letter: say which, or --all")
    tally = Tally()
    try:
        if dry_run:
            return anyio.run(_rehearse, url, selected, as_json, verb)
        anyio.run(_work, verb, url, selected, by, rate, as_json, tally)
    except (KeyboardInterrupt, TaskqError):
        if tally.last is not None:
            click.echo(f"stopped after {tally.answers.total()}: go on with --after {tally.last}", err=True)
        raise
    missing = len(set(selected.ids)) - tally.answers.total() if selected.ids else 0
    tally.answers["unknown"] += missing
    if not as_json:
        told = {answer: number for answer, number in tally.answers.items() if number}
        click.echo(", ".join(f"{number} {answer}" for answer, number in told.items()) or NOTHING)
    if tally.answers["unknown"]:
        click.echo(UNKNOWN, err=True)
    return 1 if tally.answers["conflict"] or tally.answers["unknown"] else 0


async def _rehearse(url: str | None, selection: Selection, as_json: bool, verb: Verb) -> int:
    found = await _list(url, selection)
    write_dead(found, as_json=as_json)
    if not as_json:
        click.echo(f"Would {verb} {len(found)}.")
    return 0


async def _work(
    verb: Verb, url: str | None, selection: Selection, by: str, rate: float | None, as_json: bool, tally: Tally
) -> None:
    size = PAGE if rate is None else max(1, min(PAGE, int(rate / 10)))
    async with App(url) as app:
        await noted(app, verb, *selection.what, by=by, details=selection.said)
        admin = app.admin
        with _progress(verb, await count(admin, selection)) as seen:
            async for part in batched(select(admin, selection, time.time(), seen), size):
                answers = await _deal(admin, verb, [JobRef(record.job.queue, record.job.id) for record in part])
                tally.answers.update(answers)
                tally.last = part[-1].job.id
                if as_json:
                    for record, answer in zip(part, answers, strict=True):
                        write_json({"id": record.job.id, "queue": record.job.queue, "answer": answer})
                if rate is not None:
                    await anyio.sleep(len(part) / rate)


async def _deal(admin: Admin, verb: Verb, refs: Sequence[JobRef]) -> Sequence[str]:
    if verb == "revive":
        return await admin.revive(refs)
    return ["purged" if purged else "unknown" for purged in await admin.purge(refs)]


@contextmanager
def _progress(verb: Verb, total: int) -> Generator[Callable[[], object]]:
    """A bar on a terminal while much is looked through; call what it yields for each."""
    if total < LONG_WORK or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(verb, total=total)
        yield lambda: bar.advance(line)
