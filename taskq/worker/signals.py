"""What the signals of a process ask of its worker.

``TERM``, ``INT``: drain; the second one leaves at once. ``USR2``: make way to another process, which is draining
without a limit. ``TSTP``, ``USR1``: fetch no more for now. ``CONT``: go on. ``HUP``: read the settings again.
``TTIN``: log every running job with the place it waits at.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from math import inf

import anyio
from anyio.abc import TaskStatus

from taskq.worker.notify import notify_stopping
from taskq.worker.worker import Worker

HEEDED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP),
    *(signal.SIGTSTP, signal.SIGUSR1, signal.SIGCONT, signal.SIGTTIN),
)
CUT_OFF = 1.5
"""Seconds beyond its grace after which a process leaves jobs that ignore their cancellation: with the process they end,
and their leases end by themselves, so nothing is lost, and nothing runs twice at once."""

_log = logging.getLogger("taskq.worker")


class Signals:
    """Hands a process's signals to its worker, from the moment there is one."""

    def __init__(
        self, *, give_up: Callable[[], None], reread: Callable[[Worker], None], leave: Callable[[int], None]
    ) -> None:
        self._worker: Worker | None = None
        self._asked = False
        self._give_up = give_up
        """Ends a program that has no worker yet."""
        self._reread = reread
        """Gives the worker the settings as they are now."""
        self._leave = leave
        """Ends the process with this exit code, whatever runs: its leases end by themselves, so nothing is lost."""

    def meet(self, worker: Worker) -> None:
        """The worker to hand them to."""
        self._worker = worker

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Obey until cancelled; started once the signals are caught."""
        with anyio.open_signal_receiver(*HEEDED) as received:
            task_status.started()
            async for number in received:
                self._obey(number, self._worker)

    def _obey(self, number: signal.Signals, worker: Worker | None) -> None:
        match number, worker:
            case ((signal.SIGTERM | signal.SIGINT | signal.SIGUSR2), None):
                self._give_up()
            case ((signal.SIGTERM | signal.SIGINT), Worker()) if self._asked:
                _log.warning("%s again: leaving what runs to its leases", number.name)
                self._leave(128 + number)
            case ((signal.SIGTERM | signal.SIGINT), Worker()):
                self._asked = True
                _log.info("%s: finishing what runs; a second one leaves at once", number.name)
                worker.drain()
                patience = worker.options.grace + CUT_OFF
                notify_stopping(patience)
                asyncio.get_running_loop().call_later(patience, self._cut_off, worker, number)
            case signal.SIGUSR2, Worker() if not self._asked:
                _log.info("%s: finishing what runs, however long that takes", number.name)
                worker.drain(inf)
            case signal.SIGHUP, Worker():
                self._reread(worker)
            case ((signal.SIGTSTP | signal.SIGUSR1), Worker()) if not self._asked:
                _log.info("%s: fetching no more; CONT goes on", number.name)
                worker.quiet(True)
            case signal.SIGCONT, Worker() if not self._asked:
                _log.info("%s: fetching again", number.name)
                worker.quiet(False)
            case signal.SIGTTIN, Worker():
                log_running(worker)
            case _:
                pass

    def _cut_off(self, worker: Worker, number: signal.Signals) -> None:
        _log.warning("%d jobs ignore their cancellation: leaving them to their leases", len(list(worker.running)))
        self._leave(128 + number)


def log_running(worker: Worker) -> None:
    """Log every job that runs and where it waits."""
    now = asyncio.get_running_loop().time()
    runs = [run for run in worker.running if run.fiber is not None]
    _log.warning("%d jobs run", len(runs))
    for run in runs:
        job = run.delivery.job
        fields = {"job": job.id, "task": job.task, "queue": job.queue, "attempt": run.delivery.attempt}
        _log.warning(
            "%s has run for %.1f s\n%s", job.task, now - (run.started or now), run.stack.rstrip(), extra=fields
        )
