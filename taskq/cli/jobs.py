"""``taskq jobs``: the jobs of a queue."""

import time
from collections.abc import Sequence
from typing import cast, get_args

import anyio
import click

from taskq.app import App
from taskq.broker import Record
from taskq.cli.durations import from_now
from taskq.cli.output import json_option, place_of, url_option, write_json, write_table
from taskq.cli.record import arguments_text, record_json, trouble_of
from taskq.job import State

STATES: Sequence[State] = get_args(State)
TITLES = ("id", "state", "task", "attempt", "due", "arguments", "last error")


@click.command()
@click.argument("queue")
@click.option("--state", type=click.Choice(STATES), help="Only those; default: all.")
@click.option("--after", metavar="ID", help="Only those behind this id; with --state.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="So many of each state at most.")
@url_option
@json_option
def jobs(queue: str, state: str | None, after: str | None, limit: int, url: str | None, as_json: bool) -> None:
    """List the jobs of a queue.

    By state, then by rising id, which is the order they were deferred in.
    """
    if after is not None and state is None:
        raise click.UsageError("--after goes on in one state: give --state, too")
    states: Sequence[State] = STATES if state is None else [cast("State", state)]
    app = App(url)
    found = anyio.run(_list, app, queue, states, after, limit)
    write_records(found, as_json=as_json)
    if not found and not as_json:
        click.echo(f"Queue {queue!r} holds no {f'{state} ' if state else ''}jobs at {place_of(app.config)}.")


async def _list(app: App, queue: str, states: Sequence[State], after: str | None, limit: int) -> list[Record]:
    async with app:
        return [
            record for state in states for record in await app.admin.list_jobs(queue, state, after=after, limit=limit)
        ]


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
