"""``taskq outbox``: hand over what was committed."""

from signal import SIGINT, SIGTERM

import anyio
import click

from taskq.app import App
from taskq.cli.load import APP, load_app
from taskq.errors import TaskqError


@click.command()
@click.argument("target", metavar=APP, envvar="TASKQ_APP")
def outbox(target: str) -> None:
    """Hand over what was committed to an outbox.

    Enqueues what transactions of the outbox's database deferred, until asked to stop. Every worker of MODULE:app does
    so, too; this is for databases that workers do not reach.
    """
    failure = anyio.run(_relay, load_app(target))
    if failure is not None:
        raise failure


async def _relay(app: App) -> TaskqError | None:
    async with anyio.create_task_group() as group:

        async def stop() -> None:
            with anyio.open_signal_receiver(SIGTERM, SIGINT) as signals:
                async for _ in signals:
                    group.cancel_scope.cancel()

        group.start_soon(stop)
        try:
            await app.relay()
        except TaskqError as error:
            # Not raised in here: the group would wrap it.
            return error
        finally:
            group.cancel_scope.cancel()
    return None
