"""How a task's function is called: in the loop, in a thread, or in another process."""

import asyncio
import inspect
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from math import inf
from typing import Any, Literal, NamedTuple

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from taskq.context import Current, running
from taskq.definition import Definition
from taskq.depends import Dependency, Scoped
from taskq.errors import Discard
from taskq.job import Delivery
from taskq.joblog.apart import Pipe, hearing, telling
from taskq.limits import Concurrency, RateLimit
from taskq.means import Means
from taskq.middleware import Handler, Middleware, compose
from taskq.signs import joined_signs, shared_signs
from taskq.task import Task
from taskq.worker.memory import Peak, highest


class Executors:
    """The places where handlers run, with room for so many at once."""

    def __init__(self, *, threads: int, processes: int, sync: Literal["thread", "process"] | None = None) -> None:
        self.sync: Literal["thread", "process"] | None = sync
        """Where sync handlers run, whatever their tasks say."""
        self.threads = CapacityLimiter(threads)
        self.processes = CapacityLimiter(processes)
        # The limiters above are taken first, by whoever waits; anyio's own must then never make anybody wait.
        self.free = CapacityLimiter(inf)


async def build_handler(
    definition: Definition, executors: Executors, worker: Scoped, layers: Sequence[Middleware]
) -> Handler:
    """The task's handler with its middleware; dependencies of app and worker are opened here, once."""
    wide = {name: need for name, need in definition.dependencies.items() if need.scope != "job"}
    narrow = {name: need for name, need in definition.dependencies.items() if need.scope == "job"}
    provided = await worker.values(wide)
    # What job-scoped values need of the wider scopes is opened here, too: in a job's task it could not be closed.
    await worker.prepare(narrow)
    match definition.executor if definition.executor == "loop" else executors.sync or definition.executor:
        case "loop":
            handler = _in_loop(definition.function, provided)
        case "thread":
            handler = _in_thread(definition.function, provided, executors)
        case "process":
            handler = _in_process(definition.function, provided, executors)
    if narrow:
        handler = _with_own_dependencies(handler, narrow, worker)
    if definition.precondition is not None:
        handler = _if(definition.precondition, handler, executors)
    return compose(handler, [*layers, *definition.middleware])


def _in_loop(function: Callable[..., Coroutine[Any, Any, Any]], provided: Mapping[str, Any]) -> Handler:
    # Not coroutines themselves: one frame less in the way of every job.
    if provided:

        def call_with(current: Current) -> Coroutine[Any, Any, Any]:
            args, kwargs = current.arguments
            return function(*args, **{**provided, **kwargs})

        return call_with

    def call(current: Current) -> Coroutine[Any, Any, Any]:
        args, kwargs = current.arguments
        return function(*args, **kwargs)

    return call


def _in_thread(function: Callable[..., Any], provided: Mapping[str, Any], executors: Executors) -> Handler:
    async def call(current: Current) -> Any:
        args, kwargs = current.arguments

        def run() -> Any:
            current.thread = threading.get_ident()
            try:
                return function(*args, **{**provided, **kwargs})
            finally:
                current.thread = None

        async with _place(executors.threads, current):
            before = highest()
            inner = asyncio.ensure_future(anyio.to_thread.run_sync(run, limiter=executors.free))
            # A thread cannot be cancelled: slot and lease stay with it until it returns, and what it returns counts.
            while not inner.done():
                try:
                    await asyncio.wait({inner})
                except asyncio.CancelledError:
                    current.stop("it was cancelled")
            current.grown = highest() - before
            return inner.result()

    return call


def _in_process(function: Callable[..., Any], provided: Mapping[str, Any], executors: Executors) -> Handler:
    import anyio.to_process  # here, because few workers need it

    async def call(current: Current) -> Any:
        args, kwargs = current.arguments
        async with _place(executors.processes, current):
            with shared_signs() as (path, current.signs), hearing(f"{path}.lines") as pipe:
                if current.stopping:
                    current.signs.stop()
                try:
                    # Cancelling kills the child process.
                    told = await anyio.to_process.run_sync(
                        _run_in_child,
                        *(function.__module__, function.__qualname__),
                        (args, {**provided, **kwargs}),
                        current.delivery,
                        _portable(current.granted),
                        path,
                        pipe,
                        cancellable=True,
                        limiter=executors.free,
                    )
                finally:
                    current.signs = None
        current.peak = told.peak
        if told.error is not None:
            raise told.error
        return told.value

    return call


class _Told(NamedTuple):
    """How a call in another process went."""

    value: Any
    error: Exception | None
    peak: int


@asynccontextmanager
async def _place(limiter: CapacityLimiter, current: Current) -> AsyncGenerator[None]:
    """Room to run; who waits for it is not silent."""
    current.heard_at = inf
    async with limiter:
        current.heartbeat()
        yield


def _portable(granted: Sequence[object]) -> Sequence[object] | None:
    """The same, if another process can have it: not every function can be found there."""
    keyed = any(isinstance(limit, RateLimit | Concurrency) and callable(limit.key) for limit in granted)
    return None if keyed else granted


def _run_in_child(
    module: str,
    qualname: str,
    arguments: tuple[tuple[Any, ...], dict[str, Any]],
    delivery: Delivery,
    granted: Sequence[object] | None,
    path: str,
    pipe: Pipe | None,
) -> _Told:
    found: Any = import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    function = found.definition.function if isinstance(found, Task) else found
    current = Current(delivery, arguments, Means(apart=True))
    current.admit(granted)
    args, kwargs = arguments
    token, peak = running.set(current), Peak()
    try:
        with joined_signs(path) as current.signs, telling(pipe):
            value, failure = function(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001 - raised again by whoever is told of it
        error.add_note("".join(traceback.format_exception(error)))
        value, failure = None, error
    finally:
        running.reset(token)
    return _Told(value, failure, peak.read())


def _if(precondition: Callable[..., Any], handler: Handler, executors: Executors) -> Handler:
    ask = (
        _in_loop(precondition, {})
        if inspect.iscoroutinefunction(precondition)
        else _in_thread(precondition, {}, executors)
    )

    async def call(current: Current) -> Any:
        if not await ask(current):
            name = getattr(precondition, "__qualname__", "precondition")
            raise Discard(f"{name}() says that it is not to run")
        return await handler(current)

    return call


def _with_own_dependencies(handler: Handler, wanted: Mapping[str, Dependency], worker: Scoped) -> Handler:
    async def call(current: Current) -> Any:
        async with worker.inner("job") as scope:
            args, kwargs = current.arguments
            current.arguments = args, {**await scope.values(wanted), **kwargs}
            return await handler(current)

    return call
