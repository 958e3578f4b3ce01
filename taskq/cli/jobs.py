"""``taskq jobs``: the jobs of a queue."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import get_args

import anyio
import click
from msgspec import Struct

from taskq.app import App
from taskq.broker import Admin, Record
from taskq.cli.dead_letters import PAGE
from taskq.cli.durations import from_now
from taskq.cli.output import json_option, place_of, url_option, write_json, write_table
from taskq.cli.record import arguments_text, record_json, trouble_of
from taskq.job import State
from taskq.tags import tags_of

STATES: Sequence[State] = get_args(State)
TITLES = ("id", "state", "task", "attempt", "due", "arguments", "last error")


@click.command()
@click.argument("queue", required=False)
@click.option("--state", type=click.Choice(STATES), help="Only those; default: all.")
@click.option("--tag", help="Only those of this tag; looks through all others, too.")
@click.option("--after", metavar="ID", help="Only those behind this id; with --state.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="So many of each state at most.")
@url_option
@json_option
def jobs(
    queue: str | None,
    state: State | None,
    tag: str | None,
    after: str | None,
    limit: int,
    url: str | None,
    as_json: bool,
) -> None:
    """List the jobs of a queue.

    By state, then by rising id, which is the order they were deferred in. Without QUEUE you are told which there are.
    """
    if after is not None and state is None:
        raise click.UsageError("--after goes on in one state: give --state, too")
    states: Sequence[State] = STATES if state is None else [state]
    app = App(url)
    if queue is None:
        raise click.UsageError(anyio.run(_which, app))
    found = anyio.run(_list, app, [Line(queue, state, after) for state in states], tag, limit)
    write_records(found, as_json=as_json)
    if not found and not as_json:
        what = f"{f'{states[0]} ' if len(states) == 1 else ''}jobs{'' if tag is None else f' of tag {tag!r}'}"
        click.echo(f"Queue {queue!r} holds no {what} at {place_of(app.config)}.")


class Line(Struct, frozen=True):
    """Jobs of one state, those behind an id."""

    queue: str
    state: State
    after: str | None


async def _which(app: App) -> str:
    """What there is to choose from."""
    async with app:
        counts = {each.queue: each.ready + each.leased + each.later + each.dead for each in await app.admin.stats()}
    there_are = ", ".join(f"{queue} ({number} job{'s'[: number != 1]})" for queue, number in counts.items())
    return f"say of which queue: {there_are or f'there is none with jobs at {place_of(app.config)}'}"


async def _list(app: App, lines: Sequence[Line], tag: str | None, limit: int) -> list[Record]:
    async with app:
        return [record for line in lines async for record in _first(app.admin, line, tag, limit)]


async def _first(admin: Admin, line: Line, tag: str | None, limit: int) -> AsyncIterator[Record]:
    """So many of a line, of those that have the tag."""
    async for record in _all(admin, line, limit if tag is None else max(limit, PAGE)):
        if tag in (None, *tags_of(record.job)):
            yield record
            limit -= 1
        if not limit:
            return


async def _all(admin: Admin, line: Line, size: int) -> AsyncIterator[Record]:
    after, more = line.after, True
    while more:
        page = await admin.list_jobs(line.queue, line.state, after=after, limit=size)
        for record in page:
            yield record
        more = len(page) == size
        after = page[-1].job.id if page else after


def write_records(records: Sequence[Record], *, as_json: bool) -> None:
    """Stored jobs as JSON or a table."""
    if as_json:
        for record in records:
            write_json(record_json(record))
    elif records:
        write_table(TITLES, [_row(record, time.time()) for record in records])


def _row(record: Record, now: float) -> Sequence[object]:
    job = record.job
    state = f"{record.state} (cancelled)" if record.cancelled else record.state
    due = from_now(record.due, now)
    return (job.id, state, job.task, record.attempt, due, arguments_text(record), trouble_of(record))
