"""``taskq worker --listen``: where a worker tells how it is."""

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus

import click

from taskq.app import App
from taskq.broker import Admin, QueueStats
from taskq.worker.probes import Page, served, verdict
from taskq.worker.sight import Sight, remark, trouble_alive, trouble_ready
from taskq.worker.worker import Worker

Address = tuple[str, int]

_log = logging.getLogger("taskq.worker")


def address(text: str) -> Address:
    """Host and port; an option's type."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{text!r}: write 9100, or 0.0.0.0:9100 to be reached from elsewhere")
    return host.strip("[]") or "127.0.0.1", int(port)


@contextmanager
def serve(app: App, worker: Worker, listen: Address, *, next_free: bool) -> Generator[None]:
    """Answer probes while the context is open; ``next_free``: where the port is taken, the next one that is not."""
    host, first = listen
    patience = 2 * app.settings.stall_warning
    pages = {
        "/livez": lambda: verdict(trouble_alive(worker.look(), patience)),
        "/readyz": lambda: _readiness(worker.look(), worker.options.lease),
        "/metrics": _metrics(app, worker),
    }
    with served(host, first, pages, next_free=next_free) as port:
        _log.info("listening on %s:%d", host, port)
        yield


def _readiness(sight: Sight, lease: float) -> Page:
    return verdict(trouble_ready(sight, lease), remark(sight, lease))


def _metrics(app: App, worker: Worker) -> Callable[[], Page]:
    try:
        from taskq.telemetry.page import MetricsPage
    except ImportError:
        text = b"metrics need: pip install 'taskq-async[metrics]'\n"
        return lambda: Page(text, HTTPStatus.NOT_IMPLEMENTED)
    return MetricsPage(app.events, worker.look, partial(_count, app.backend.admin, worker, asyncio.get_running_loop()))


def _count(admin: Admin | None, worker: Worker, loop: asyncio.AbstractEventLoop) -> Future[Sequence[QueueStats]]:
    async def stats() -> Sequence[QueueStats]:
        return await admin.stats(worker.queues) if admin is not None else ()

    return asyncio.run_coroutine_threadsafe(stats(), loop)
