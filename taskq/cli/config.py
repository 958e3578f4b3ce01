"""``taskq config``: every setting in force, and where it came from."""

import os
import re
from pathlib import Path

import click
import msgspec

from taskq.cli.load import APP, load_app
from taskq.cli.output import json_option, write_json, write_table
from taskq.config import Config, load_config

_PASSWORD = re.compile(r"(?<=:)[^:@/]+(?=@)")


@click.command()
@click.argument("target", metavar=f"[{APP}]", required=False, envvar="TASKQ_APP")
@json_option
def config(target: str | None, as_json: bool) -> None:
    """Show every setting and its source.

    With MODULE:app also what the app itself says.
    """
    found: Config = load_config({}, os.environ, Path.cwd()) if target is None else load_app(target).config
    settings = msgspec.to_builtins(found.settings) | {"url": _PASSWORD.sub("***", found.settings.url)}
    if as_json:
        for name, value in settings.items():
            write_json({"setting": name, "value": value, "source": found.sources[name]})
    else:
        rows = [(name, _text(value), found.sources[name]) for name, value in settings.items()]
        write_table(("setting", "value", "from"), rows, widest=1000)


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
