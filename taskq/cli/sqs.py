"""``taskq sqs``: make the queues that an app needs, after showing what would be done."""

from collections.abc import Sequence
from typing import Literal

import anyio
import click

from taskq.app import App
from taskq.cli.load import APP, load_app
from taskq.cli.output import url_option
from taskq.connect import connect
from taskq.errors import MissingCapability
from taskq.pools import Selection


@click.group()
def sqs() -> None:
    """Plan and make queues on Amazon SQS.

    For the QUEUEs given, or those of the app's tasks and of the setting `queues`.
    """


@sqs.command()
@click.argument("queues", metavar="[QUEUE]...", nargs=-1)
@click.option("--app", "target", metavar=APP, envvar="TASKQ_APP", help="Take its queues, and its URL.")
@url_option
def plan(queues: Sequence[str], target: str | None, url: str | None) -> int:
    """Show what `apply` would do; exits with 1 when that is anything."""
    steps = anyio.run(_go, "plan", queues, target, url)
    _show(steps, "would ")
    return 1 if steps else 0


@sqs.command()
@click.argument("queues", metavar="[QUEUE]...", nargs=-1)
@click.option("--app", "target", metavar=APP, envvar="TASKQ_APP", help="Take its queues, and its URL.")
@url_option
def apply(queues: Sequence[str], target: str | None, url: str | None) -> None:
    """Create what is missing and set what differs; removes nothing."""
    _show(anyio.run(_go, "apply", queues, target, url), "")


async def _go(
    what: Literal["plan", "apply"], queues: Sequence[str], target: str | None, url: str | None
) -> Sequence[str]:
    app = App() if target is None else load_app(target)
    pooled = [queue for pool in app.settings.pools.values() for queue in pool.selection.names]
    served = Selection(app.settings.queues).names
    named = [*queues] or [*served, *pooled, *(task.queue for task in app.registry.tasks.values())]
    async with connect(url or app.settings.url) as backend:
        if backend.setup is None:
            raise MissingCapability("this backend has no queues to be made: `taskq sqs` is for sqs:// URLs")
        step = backend.setup.plan if what == "plan" else backend.setup.apply
        return await step(list(dict.fromkeys(named)) or ["default"])


def _show(steps: Sequence[str], before: str) -> None:
    for step in steps:
        click.echo(before + step)
    if not steps:
        click.echo("All queues are as declared.")
