"""A worker in a thread and an event loop of its own, beside a program that has its own things to do."""

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal

from taskq.app import App
from taskq.errors import ConfigError
from taskq.worker.sight import trouble_ready
from taskq.worker.worker import Worker


@contextmanager
def working_in_thread(app: App, **options: Any) -> Generator[Worker]:
    """Work while the context is open, and drain when it is left; left by an error, without grace.

    The app is opened in that thread, too, with its lifespan; the options are those of ``app.run_worker``. Raises what
    opening raises, ConfigError for a broker that is of one event loop.
    """
    if any(url.startswith("memory:") for url in app.settings.urls.values()):
        raise ConfigError(
            "memory:// is of one event loop, and a worker in a thread would find none of its jobs: let it work in the "
            "same loop, or take another broker, such as sqlite:///taskq.db"
        )
    with start_blocking_portal(name="taskq worker") as portal:
        ended, worker = portal.start_task(_work, app, options)
        try:
            yield worker
        except BaseException:
            # The portal is left when it has ended.
            ended.cancel()
            raise
        portal.call(worker.drain)
        ended.result()


async def _work(app: App, options: dict[str, Any], *, task_status: TaskStatus[Worker]) -> None:
    await app.run_worker(**options, started=task_status.started)


class WorkerThread:
    """``WorkerThread(app, slots=10)``: a worker from now until the program ends, which waits for its drain."""

    def __init__(self, app: App, **options: Any) -> None:
        self._stack = ExitStack()
        self._worker = self._stack.enter_context(working_in_thread(app, **options))
        threading.Thread(target=self._stop_at_exit, name="taskq worker's end").start()

    def stop(self) -> None:
        """Drain it now; the answer comes when all it held is settled."""
        self._stack.close()

    def trouble(self) -> str | None:
        """Why it should not be counted on for work, or None: it drains, or the broker has not answered for a lease."""
        return trouble_ready(self._worker.look(), self._worker.options.lease)

    def _stop_at_exit(self) -> None:
        # Not by atexit: that comes after all threads have ended, and those that ran sync handlers end with the worker.
        threading.main_thread().join()
        self.stop()
