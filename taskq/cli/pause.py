"""``taskq pause``: let workers leave queues alone."""

from collections.abc import Sequence

import anyio
import click

from taskq.app import App
from taskq.cli.durations import duration, readable
from taskq.cli.output import json_option, url_option, write_json
from taskq.options import check_queue


@click.command()
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@click.option("--for", "seconds", type=duration, metavar="10m", help="Resume by itself after so long.")
@url_option
@json_option
def pause(queues: Sequence[str], seconds: float | None, url: str | None, as_json: bool) -> None:
    """Let all workers leave queues alone.

    They know within a second. What runs goes on.
    """
    names = [check_queue(queue) for queue in queues]

    async def act() -> None:
        async with App(url) as app:
            await app.pause(*names, seconds=seconds)

    anyio.run(act)
    for queue in names:
        if as_json:
            write_json({"queue": queue, "paused": True, "seconds": seconds})
        else:
            click.echo(f"{queue}: paused {'until resumed' if seconds is None else f'for {readable(seconds)}'}")
