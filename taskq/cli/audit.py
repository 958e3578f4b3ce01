"""``taskq audit``: who did what by hand, and when."""

import getpass
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import anyio
import click
from msgspec.structs import asdict

from taskq.app import App
from taskq.audit import Act, acts_since, check_by, note
from taskq.cli.durations import duration, readable
from taskq.cli.output import json_option, url_option, write_json, write_table

F = TypeVar("F", bound=Callable[..., object])


def by_option(command: F) -> F:
    """``--by``: checked, and by default who runs the command and where."""
    told = "Who does this, for `taskq audit`; default: you and this host."
    return click.option(
        "--by",
        envvar="TASKQ_BY",
        show_envvar=True,
        default=_operator,
        callback=_checked,
        metavar="NAME",
        help=told,
    )(command)


def _checked(_context: click.Context, _option: click.Parameter, by: str) -> str:
    return check_by(by)


def _operator() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # A container's user may have no name.
    return f"{user}@{socket.gethostname()}"


async def noted(app: App, verb: str, *what: str, by: str, details: str = "") -> None:
    """Note what a command is about to do, where there is a Store to note it in."""
    if app.backend.store is not None:
        await note(app.store, verb, *what, by=by, details=details)


@click.command()
@click.option("--since", type=duration, default="7d", show_default=True, help="How far to look back; 90 days at most.")
@click.option("--about", metavar="TEXT", default="", help="What was done to something with this text in its name.")
@url_option
@json_option
def audit(since: float, about: str, url: str | None, as_json: bool) -> None:
    """Tell who did what by hand: paused, resumed, ran, removed, cancelled, completed, revived, purged.

    Noted before it is done, and for 90 days.
    """
    acts = [act for act in anyio.run(_look, url, since) if about in act.what]
    if as_json:
        for act in acts:
            write_json(asdict(act))
    elif acts:
        write_table(("when", "by", "did", "to", ""), [row(act) for act in acts])
    else:
        click.echo(f"Nothing was done by hand in the last {readable(since)}.")


def row(act: Act) -> Sequence[object]:
    """An act as a line of a table."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(act.at))
    return (at, act.by or "-", act.verb, act.what, act.details)


async def _look(url: str | None, since: float) -> Sequence[Act]:
    async with App(url) as app:
        return await acts_since(app.store, since)
