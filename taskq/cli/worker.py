"""``taskq worker``: run an app's jobs."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn, cast

import anyio
import click

from taskq.app import App
from taskq.cli import logs
from taskq.cli.durations import duration
from taskq.cli.load import APP, load_app
from taskq.cli.reload import run_reloading
from taskq.errors import TaskqError
from taskq.options import check_queue
from taskq.worker.signals import Signals


def names(text: str) -> Sequence[str]:
    """An option's type: names of queues, separated by commas."""
    return [check_queue(name.strip()) for name in text.split(",")]


@click.command(
    epilog="""\b
Signals:
  TERM, INT   finish what runs within the grace, then end; the second one ends at once
  USR1, TSTP  fetch no more for now
  CONT        fetch again
  TTIN        log every running job and where it waits
"""
)
@click.argument("target", metavar=APP, envvar="TASKQ_APP")
@click.option("--queues", type=names, metavar="a,b", help="Fetch from these, the first one first.")
@click.option("--slots", type=click.IntRange(1), help="Jobs to run at once.")
@click.option("--grace", type=duration, metavar="SECONDS", help="How long running jobs may go on after TERM.")
@click.option("--max-jobs", type=click.IntRange(1), help="End after so many runs.")
@click.option("--until-idle", is_flag=True, help="End when nothing is due or runs.")
@click.option("--reload", is_flag=True, help="Drain and start anew when a Python file in this directory changes.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="debug also tells when a job starts, info when it ends.",
)
def worker(
    target: str,
    queues: Sequence[str] | None,
    slots: int | None,
    grace: float | None,
    max_jobs: int | None,
    until_idle: bool,
    reload: bool,
    log_format: str,
    log_level: str,
) -> int:
    """Run the jobs of MODULE:app until asked to stop."""
    logs.set_up(cast("logs.Format", log_format), log_level)
    if reload:
        return run_reloading([argument for argument in sys.argv[1:] if argument != "--reload"])
    app = load_app(target)
    logs.follow(app.events)
    options = {"use_uvloop": find_spec("uvloop") is not None}
    failure = anyio.run(_work, app, queues, slots, grace, max_jobs, until_idle, backend_options=options)
    if failure is not None:
        raise failure
    return 0


async def _work(
    app: App,
    queues: Sequence[str] | None,
    slots: int | None,
    grace: float | None,
    max_jobs: int | None,
    until_idle: bool,
) -> TaskqError | None:
    async with anyio.create_task_group() as group:
        signals = Signals(give_up=group.cancel_scope.cancel, leave=_leave)
        await group.start(signals.run)
        try:
            await app.run_worker(
                queues=queues,
                slots=slots,
                grace=grace,
                max_jobs=max_jobs,
                until="idle" if until_idle else "asked",
                started=signals.meet,
            )
        except TaskqError as error:
            # Not raised in here: the group would wrap it.
            return error
        finally:
            group.cancel_scope.cancel()
    return None


def _leave(code: int) -> NoReturn:
    # Not sys.exit: that waits for threads and for tasks that do not heed their cancellation.
    sys.stdout.flush()
    os._exit(code)
