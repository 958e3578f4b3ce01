"""``taskq resume``: let workers go on with what was paused."""

from collections.abc import Sequence

import anyio
import click

from taskq.app import App
from taskq.cli.output import json_option, url_option
from taskq.cli.pause import checked, selection, tell


@click.command()
@selection
@url_option
@json_option
def resume(queues: Sequence[str], tasks: Sequence[str], tenants: Sequence[str], url: str | None, as_json: bool) -> None:
    """Let workers go on with queues, tasks or tenants."""
    selected = checked(queues, tasks, tenants)

    async def act() -> None:
        async with App(url) as app:
            await app.resume(*queues, tasks=tasks, tenants=tenants)

    anyio.run(act)
    tell(selected, "resumed", {"paused": False}, as_json=as_json)
