"""``taskq resume``: let workers go on with what was paused."""

from collections.abc import Sequence
from typing import Unpack

import anyio
import click

from taskq.app import App
from taskq.cli.audit import by_option
from taskq.cli.output import json_option, url_option
from taskq.cli.pause import Selected, checked, selection, tell


@click.command()
@selection
@by_option
@url_option
@json_option
def resume(queues: Sequence[str], by: str, url: str | None, as_json: bool, **selected: Unpack[Selected]) -> None:
    """Let workers go on with queues, tasks, tenants or tags."""
    named = checked(queues, selected)

    async def act() -> None:
        async with App(url) as app:
            await app.resume(*queues, **selected, by=by)

    anyio.run(act)
    tell(named, "resumed", {"paused": False}, as_json=as_json)
