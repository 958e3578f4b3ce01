"""``taskq defer``: make a job of a call."""

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import anyio
import click
import msgspec

from taskq.app import App
from taskq.cli.durations import duration
from taskq.cli.load import APP, load_app
from taskq.cli.output import json_option, write_json
from taskq.handle import JobHandle


def moment(text: str) -> datetime:
    """An option's type: a moment in ISO 8601."""
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}; write 2030-01-31T08:00+01:00") from error


@click.command()
@click.argument("task")
@click.argument("json", default="{}")
@click.option("--app", "target", envvar="TASKQ_APP", show_envvar=True, metavar=APP, required=True)
@click.option("--queue", help="Instead of the task's own.")
@click.option("--delay", type=duration, metavar="10m", help="Not before so much later.")
@click.option("--run-at", type=moment, metavar="MOMENT", help="Not before 2030-01-31T08:00+01:00, say.")
@click.option("--expires-in", type=duration, metavar="10m", help="It may start so long after it became due.")
@click.option("--expires-at", type=moment, metavar="MOMENT", help="It must not start after this moment.")
@click.option("--priority", type=int, help="Larger first.")
@click.option("--tag", "tags", multiple=True, help="A word to find and to pause it by; may be given more than once.")
@click.option("--id", help="The job's id; deferring it again while it lives adds nothing.")
@click.option("--unique", is_flag=True, default=None, help="Add nothing while a job of equal arguments lives.")
@click.option("--unique-key", metavar="KEY", help="Add nothing while a job of this key lives.")
@json_option
def defer(task: str, json: str, target: str, as_json: bool, **options: Any) -> None:
    """Defer a call of TASK and print the job's id.

    JSON is an object of arguments by name (default: {}), or an array of positional ones; "-" reads it from stdin. It
    is checked against the task's signature before anything is sent.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "unique_key" in given:
        given["unique"] = given.pop("unique_key")
    args, kwargs = _arguments(sys.stdin.read() if json == "-" else json)
    app = load_app(target)
    handle = anyio.run(_defer, app, task, args, kwargs, given)
    if as_json:
        write_json({"id": handle.id, "queue": handle.queue, "added": handle.added})
    else:
        click.echo(handle.id)
        if not handle.added:
            click.echo("Nothing was added: this job was there already.", err=True)


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        value: list[Any] | dict[str, Any] = msgspec.json.decode(text, type=list[Any] | dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise click.UsageError(f"the arguments are no JSON object or array: {error}") from error
    if isinstance(value, dict):
        return [], value
    return value, {}


async def _defer(
    app: App, name: str, args: list[Any], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> JobHandle[Any]:
    task = app.find_task(name).options(**options)
    signature = task.signature
    # There and back: the call has its own types then, so a unique key is the one that the same call in code has.
    args_typed, kwargs_typed = signature.decode(signature.encode(signature.bind(args, kwargs)))
    async with app:
        return await task.defer(*args_typed, **kwargs_typed)
