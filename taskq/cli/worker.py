"""``taskq worker``: run an app's jobs."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any, NoReturn, cast

import anyio
import click

from taskq.app import App
from taskq.cli import logs
from taskq.cli.durations import duration
from taskq.cli.listen import Address, address, serve
from taskq.cli.load import APP, load_app, version_of
from taskq.cli.processes import Crew, processes_options, run_supervised
from taskq.cli.reload import run_reloading
from taskq.errors import ConfigError, TaskqError
from taskq.events import WorkerStarted
from taskq.history import KEPT, mark
from taskq.pools import check_patterns
from taskq.worker.notify import GRACE, notify
from taskq.worker.nursery import SUPERVISED
from taskq.worker.preload import PRELOAD, fork_workers
from taskq.worker.signals import Signals
from taskq.worker.worker import Worker

_log = logging.getLogger("taskq.worker")


def names(text: str) -> Sequence[str]:
    """An option's type: names of queues, globs and exclusions, separated by commas."""
    patterns = [pattern.strip() for pattern in text.split(",")]
    check_patterns("--queues", patterns)
    return patterns


@click.command(
    epilog="""\b
Signals:
  TERM, INT   finish what runs within the grace, then end; the second one ends at once
  USR1, TSTP  fetch no more for now
  CONT        fetch again
  HUP         read the settings again: queues, slots and grace count from then on
  TTIN        log every running job and where it waits
  USR2        make way: finish what runs, however long, then end;
              with --processes: start new code beside the old (taskq rollout)
"""
)
@click.argument("target", metavar=APP, envvar="TASKQ_APP")
@click.option(
    "--pool", "pools", multiple=True, metavar="NAME", help="Run this pool, and others so named; default: all."
)
@click.option("--queues", type=names, metavar="a,b", help="Fetch from these, the first first: names, globs, !these.")
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
@click.option(
    "--listen", type=address, metavar="[HOST:]PORT", help="Serve /livez, /readyz and /metrics there; host: 127.0.0.1."
)
@processes_options
def worker(
    target: str,
    pools: Sequence[str],
    queues: Sequence[str] | None,
    slots: int | None,
    grace: float | None,
    max_jobs: int | None,
    until_idle: bool,
    reload: bool,
    log_format: str,
    log_level: str,
    listen: Address | None,
    crew: Crew | None,
) -> int:
    """Run the jobs of MODULE:app until asked to stop."""
    logs.set_up(cast("logs.Format", log_format), log_level)
    if crew is not None:
        if reload:
            raise click.UsageError("--reload restarts one process: leave out --processes")
        return run_supervised(crew, sys.argv[1:])
    if reload:
        return run_reloading([argument for argument in sys.argv[1:] if argument != "--reload"])
    app = load_app(target)
    logs.follow(app.events)
    # The log has every end built as an event already: to count it, too, costs a microsecond.
    app.presume(history=KEPT, build=version_of(target))
    if os.environ.pop(PRELOAD, None):
        fork_workers()
    given = {"pools": pools or None, "queues": queues, "slots": slots, "grace": grace}
    until = {"max_jobs": max_jobs, "until": "idle" if until_idle else "asked"}
    options = {"use_uvloop": find_spec("uvloop") is not None}
    failure = anyio.run(_work, app, given, until, listen, backend_options=options)
    if failure is not None:
        raise failure
    return 0


async def _work(
    app: App, given: Mapping[str, Any], until: Mapping[str, Any], listen: Address | None
) -> TaskqError | None:
    def reread(worker: Worker) -> None:
        try:
            app.reread()
            worker.adopt(app.worker_options(**given))
        except ConfigError as error:
            _log.error("HUP: the settings stay as they were: %s", error)
        else:
            now = worker.options
            _log.info("HUP: %d slots, queues %s, grace %g s", now.slots, ", ".join(now.queues), now.grace)

    async with anyio.create_task_group() as group:
        signals = Signals(give_up=group.cancel_scope.cancel, reread=reread, leave=_leave)
        await group.start(signals.run)

        def started(worker: Worker) -> None:
            signals.meet(worker)
            if listen is not None:
                serving.enter_context(serve(app, worker, listen, next_free=SUPERVISED in os.environ))
            app.events.subscribe(WorkerStarted, lambda _: notify(READY=1, **{GRACE: worker.options.grace}))
            if SUPERVISED in os.environ:
                _heed_supervisor(worker, took_over)

        def took_over() -> None:
            group.start_soon(_mark, app)

        serving = ExitStack()
        try:
            with serving:
                await app.run_worker(**given, **until, started=started)
        except TaskqError as error:
            # Not raised in here: the group would wrap it.
            return error
        finally:
            group.cancel_scope.cancel()
    return None


async def _mark(app: App) -> None:
    """Note that this code has taken over."""
    label = app.settings.build or "rollout"
    try:
        await mark(app.store, label)
    except TaskqError as error:
        _log.warning("the rollout is not marked in the history: %s", error)
    else:
        _log.info("marked in the history: %s", label)


def _heed_supervisor(worker: Worker, took_over: Callable[[], None]) -> None:
    """What it writes to our stdin is that our code has taken over.

    When that ends our supervisor has died: nobody would ever ask us to end.
    """
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    # Forked siblings share it, and only one of them gets what was written.
    os.set_blocking(stdin, False)

    def readable() -> None:
        try:
            told = os.read(stdin, 1)
        except BlockingIOError:
            return
        if told:
            took_over()
        else:
            loop.remove_reader(stdin)
            _log.warning("the supervisor is gone: finishing what runs")
            worker.drain()

    loop.add_reader(stdin, readable)


def _leave(code: int) -> NoReturn:
    # Not sys.exit: that waits for threads and for tasks that do not heed their cancellation.
    sys.stdout.flush()
    os._exit(code)
