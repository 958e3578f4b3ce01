"""``taskq resume``: let workers fetch from paused queues again."""

from collections.abc import Sequence

import anyio
import click

from taskq.app import App
from taskq.cli.output import json_option, url_option, write_json
from taskq.options import check_queue


@click.command()
@click.argument("queues", metavar="QUEUE...", nargs=-1, required=True)
@url_option
@json_option
def resume(queues: Sequence[str], url: str | None, as_json: bool) -> None:
    """Let workers fetch from queues again."""
    names = [check_queue(queue) for queue in queues]

    async def act() -> None:
        async with App(url) as app:
            await app.resume(*names)

    anyio.run(act)
    for queue in names:
        if as_json:
            write_json({"queue": queue, "paused": False})
        else:
            click.echo(f"{queue}: resumed")
