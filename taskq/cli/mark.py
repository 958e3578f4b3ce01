"""``taskq mark``: note a deploy beside what became of jobs."""

import time

import anyio
import click

from taskq.app import App
from taskq.cli.output import url_option
from taskq.history import Mark, mark


@click.command("mark")
@click.argument("label")
@url_option
def mark_command(label: str, url: str | None) -> None:
    """Note LABEL in the history: a deploy, say.

    Once a minute for each label. `taskq history` shows it, for 90 days.
    """
    made = anyio.run(_mark, url, label)
    click.echo(f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(made.at))}  {label}")


async def _mark(url: str | None, label: str) -> Mark:
    async with App(url) as app:
        return await mark(app.store, label)
