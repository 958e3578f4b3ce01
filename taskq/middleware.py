"""What wraps handlers, and what jobs pass on their way in: built once per task, called for every job."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from taskq.context import Current
from taskq.job import Job

Handler = Callable[[Current], Awaitable[Any]]
"""Runs one job and returns its result."""

Middleware = Callable[[Current, Handler], Awaitable[Any]]
"""Wraps a handler: call it, or do not; what is returned or raised is the outcome of the run."""

DeferMiddleware = Callable[[Job], Awaitable[Job]]
"""Sees each job before it is enqueued: returns it or another, or raises ``Vetoed(reason)``."""


def compose(handler: Handler, middleware: Sequence[Middleware]) -> Handler:
    """One handler out of many layers, the first one outermost. Without layers it is the handler itself."""
    for layer in reversed(middleware):
        handler = _wrap(layer, handler)
    return handler


def _wrap(layer: Middleware, inner: Handler) -> Handler:
    async def wrapped(current: Current) -> Any:
        return await layer(current, inner)

    return wrapped


async def pass_through(job: Job, middleware: Sequence[DeferMiddleware]) -> Job:
    """A job as the layers leave it; the first one sees it first."""
    for layer in middleware:
        job = await layer(job)
    return job
