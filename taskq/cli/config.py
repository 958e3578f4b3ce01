"""``taskq config``: every setting in force and where it came from, or all that counts for one task."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import click
import msgspec

from taskq.cli.effective import effective
from taskq.cli.load import APP, load_app
from taskq.cli.output import json_option, without_password, write_json, write_table
from taskq.config import Config, load_config


@click.group(invoke_without_command=True)
@click.option("--app", "target", envvar="TASKQ_APP", show_envvar=True, metavar=APP, help="With what it says itself.")
@json_option
@click.pass_context
def config(context: click.Context, target: str | None, as_json: bool) -> None:
    """Show every setting and its source."""
    if context.invoked_subcommand is not None:
        return
    found: Config = load_config({}, os.environ, Path.cwd()) if target is None else load_app(target).config
    settings = {name: _shown(value) for name, value in msgspec.to_builtins(found.settings).items()}
    settings["notify"] = [target.name for target in found.settings.notify]
    _write("setting", ((name, value, found.sources[name]) for name, value in settings.items()), as_json=as_json)


@config.command()
@click.argument("task")
@click.option("--app", "target", envvar="TASKQ_APP", show_envvar=True, metavar=APP, required=True)
@json_option
def explain(task: str, target: str, as_json: bool) -> None:
    """Show how jobs of TASK are stored, run and retried, and who says so.

    What a call says goes before what its task says, that before the defaults of the task's queue, these before the
    defaults of all queues, and these before the settings of the app.
    """
    app = load_app(target)
    found = effective(app, app.find_task(task))
    _write("option", ((each.option, each.value, each.source) for each in found), as_json=as_json)


def _write(what: str, rows: Iterable[tuple[str, object, str]], *, as_json: bool) -> None:
    if as_json:
        for name, value, source in rows:
            write_json({what: name, "value": value, "source": source})
    else:
        cells = [
            (name, value if isinstance(value, str) else msgspec.json.encode(value).decode(), source)
            for name, value, source in rows
        ]
        write_table((what, "value", "from"), cells, widest=1000)


def _shown(value: object) -> object:
    """Without the passwords of URLs."""
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in cast("dict[str, object]", value).items()}
    return without_password(value) if isinstance(value, str) and "://" in value else value
