"""``taskq config``: every setting in force and where it came from, or all that counts for one task."""

import os
import re
from math import inf
from pathlib import Path
from typing import cast

import click
import msgspec

from taskq.app import App
from taskq.cli.load import APP, load_app
from taskq.cli.output import json_option, write_json, write_table
from taskq.config import Config, load_config

LONGEST = 1.0 - 2**-53
"""The chance that makes jittered waits as long as they get."""

_PASSWORD = re.compile(r"(?<=:)[^:@/]+(?=@)")


@click.command()
@click.argument("target", metavar=f"[{APP}]", required=False, envvar="TASKQ_APP")
@click.option("--task", "task_name", metavar="NAME", help="Show what counts for this task of the app instead.")
@json_option
def config(target: str | None, task_name: str | None, as_json: bool) -> None:
    """Show every setting and its source.

    With MODULE:app also what the app itself says; with --task how a task's jobs are stored, run and retried.
    """
    if task_name is not None:
        if target is None:
            raise click.UsageError("--task needs the app: taskq config MODULE:app --task NAME")
        _explain(load_app(target), task_name, as_json=as_json)
        return
    found: Config = load_config({}, os.environ, Path.cwd()) if target is None else load_app(target).config
    settings = {name: _shown(value) for name, value in msgspec.to_builtins(found.settings).items()}
    settings["notify"] = [target.name for target in found.settings.notify]
    if as_json:
        for name, value in settings.items():
            write_json({"setting": name, "value": value, "source": found.sources[name]})
    else:
        rows = [(name, _text(value), found.sources[name]) for name, value in settings.items()]
        write_table(("setting", "value", "from"), rows, widest=1000)


def _explain(app: App, name: str, *, as_json: bool) -> None:
    task = app.find_task(name)
    definition, policy = task.definition, task.policy(app.settings.keep_dead)
    waits = [policy.retry.next_delay(Exception(), n, LONGEST, failing_for=0.0) for n in range(1, policy.retry.attempts)]
    shown = {
        "queue": task.queue,
        "executor": definition.executor,
        "delivery": policy.guarantee,
        "idempotent": definition.idempotent,
        "transaction": definition.transaction,
        "timeout": definition.timeout,
        "attempts": 1 if policy.guarantee == "at_most_once" else policy.retry.attempts,
        "longest waits": [round(wait, 1) for wait in waits if wait is not None],
        "max_losses": policy.max_losses,
        "keep": policy.keep,
        "keep_dead": policy.keep_dead if policy.keep_dead != inf else None,
        "on_dead": definition.on_dead,
        **{
            name: getattr(task.defaults, name)
            for name in ("priority", "delay", "expires_in", "expires_at", "unique", "group")
        },
    }
    if as_json:
        write_json({"task": name, **shown})
    else:
        write_table(("option", "value"), [(option, _text(value)) for option, value in shown.items()], widest=1000)


def _shown(value: object) -> object:
    """Without the passwords of URLs."""
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in cast("dict[str, object]", value).items()}
    return _PASSWORD.sub("***", value) if isinstance(value, str) and "://" in value else value


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
