"""An app's workers: made of its tasks, run in an event loop, beside something else, or for one job inline."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from msgspec.structs import replace

from taskq.config import Settings
from taskq.depends import Scoped
from taskq.events import Events
from taskq.job import Job
from taskq.joblog import mark_records
from taskq.live import Lives
from taskq.middleware import Middleware
from taskq.pools import check_patterns
from taskq.schedule import Schedule
from taskq.task import Task
from taskq.worker.inline import Inline
from taskq.worker.options import WorkerOptions
from taskq.worker.presence import present
from taskq.worker.recipe import Recipe
from taskq.worker.run import Runnable
from taskq.worker.ticker import TickDesk
from taskq.worker.worker import Worker


class Working:
    """What makes and runs the workers of an app by its recipe."""

    def __init__(self, recipe: Recipe, lives: Lives, events: Events, schedules: Mapping[str, Schedule]) -> None:
        self.recipe = recipe
        self._lives = lives
        self._events = events
        self._schedules = schedules

    def wrap(self, layer: Middleware) -> None:
        """Put a layer around everything that wraps handlers already, in the workers made from now on."""
        self.recipe = replace(self.recipe, middleware=[layer, *self.recipe.middleware])

    def adopt(self, settings: Settings) -> None:
        """Let these settings count for the workers made from now on."""
        self.recipe = replace(self.recipe, settings=settings)

    def options(self, options: Mapping[str, Any]) -> WorkerOptions:
        """How a worker works by the settings, and by what is given here and not None."""
        given = {name: value for name, value in options.items() if value is not None}
        if "queues" in given:
            check_patterns("queues", given["queues"])
        return self.recipe.worker_options(given)

    async def make(self, scope: Scoped, desk: TickDesk, options: Mapping[str, Any]) -> Worker:
        """A worker on what is open here, its tasks' dependencies provided by ``scope``."""
        live = self._lives.here()
        mark_records()
        recorder = self.recipe.recorder(live.backend)
        worker_options = self.options(options)
        runnables = await self.recipe.runnables(scope, worker_options.pools, recorder)
        stations: list[Callable[[], Coroutine[Any, Any, None]]] = [] if recorder is None else [recorder.run]
        stations += [live.historian.run] if live.historian is not None else []
        if worker_options.until == "asked":
            ticker = self.recipe.ticker(live.backend, self._schedules, desk)
            stations += [ticker.run] if ticker is not None and worker_options.schedules else []
            stations += [live.relay.run] if live.relay is not None else []
        return Worker(live.sites, runnables, self._events, worker_options, stations)

    async def run(self, worker: Worker) -> None:
        """Work until the worker has ended, known to whoever looks."""
        async with present(worker, self._lives.here().backend):
            await worker.run()

    @asynccontextmanager
    async def beside(self, desk: TickDesk, options: Mapping[str, Any]) -> AsyncGenerator[Worker]:
        """A worker that runs while the context is open, and is drained when it is left."""
        async with self._lives.here().scope.inner("worker") as scope:
            worker = await self.make(scope, desk, options)
            # Not a task group: it would wrap whatever the body raises into a group.
            work = asyncio.get_running_loop().create_task(self.run(worker))
            try:
                yield worker
                worker.drain()
            except BaseException:
                work.cancel()
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({work})
            work.result()

    @asynccontextmanager
    async def prepared(self, task: Task[..., Any]) -> AsyncGenerator[Runnable]:
        """A task as a worker runs it, with its dependencies open within the context."""
        async with self._lives.here().scope.inner("worker") as scope:
            yield await self.recipe.runnable(task, self.recipe.executors(), scope)

    async def inline(self, task: Task[..., Any], job: Job, *, retries: bool) -> bytes:
        """Run a job here; see :meth:`taskq.App.run_inline`."""
        job = await self.recipe.prepare(job)
        backend = self._lives.here().door(job.queue).backend
        async with self.prepared(task) as runnable:
            return await Inline(task.name, runnable, backend).run(job, retries=retries)
