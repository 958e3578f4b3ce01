"""What wraps handlers, and what jobs pass on their way in: built once per task, called for every job."""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import msgspec

from taskq.context import Current
from taskq.job import Job

_CARRIED = "context-"

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


def carry(variables: Sequence[ContextVar[str]]) -> tuple[DeferMiddleware, Middleware]:
    """Two layers that take the caller's values of these context variables along to the handler, as headers."""

    async def pack(job: Job) -> Job:
        values = {_CARRIED + variable.name: variable.get("") for variable in variables}
        carried = {name: value for name, value in values.items() if value}
        return msgspec.structs.replace(job, headers={**job.headers, **carried}) if carried else job

    async def unpack(current: Current, proceed: Handler) -> Any:
        for variable in variables:
            value = current.headers.get(_CARRIED + variable.name)
            if value is not None:
                variable.set(value)
        return await proceed(current)

    return pack, unpack
