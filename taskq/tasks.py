"""Collections of tasks: what ``@app.task`` and ``@tasks.task`` do."""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from taskq.depends import dependencies_of
from taskq.errors import ConfigError, DuplicateTask
from taskq.options import (
    CallOptions,
    Executor,
    Options,
    TaskOptions,
    check_option,
    check_task,
    merge,
    refuse_unknown,
)
from taskq.outcome import Policy
from taskq.retry import Retry
from taskq.task import Definition, Home, Task, refuse_retries

P = ParamSpec("P")
R = TypeVar("R")


class TaskDecorator(Protocol):
    """What ``@task(...)`` answers: takes a coroutine function or a sync one."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class Tasks:
    """A collection of tasks without an app: declare them anywhere, ``app.include()`` them where the app is."""

    def __init__(self, added: "Callable[[Task[..., Any]], None] | None" = None) -> None:
        self.tasks: dict[str, Task[..., Any]] = {}
        self._added = added

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    def task(self, function: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Make a task of a function: ``@tasks.task`` or ``@tasks.task(queue="mail", timeout=30)``."""

        def decorate(function: Callable[..., Any]) -> Task[..., Any]:
            return self.add(make_task(function, options))

        return decorate if function is None else decorate(function)

    def add(self, task: Task[..., Any]) -> Task[..., Any]:
        """Take a task in; raises DuplicateTask when its name is taken."""
        if task.name in self.tasks:
            raise DuplicateTask(f"there is a task named {task.name} already; give one of them another name=")
        if self._added is not None:
            self._added(task)
        self.tasks[task.name] = task
        return task


def make_task(function: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
    """A task that belongs to no app yet; raises ConfigError for options that make no sense."""
    for name in options:
        refuse_unknown(name, TaskOptions)
    for name in ("id", "tx", "attempts"):
        if name in options:
            # Attempts of a call travel with its job, where no deploy changes them.
            instead = "retry=Retry(n) on the task, or " if name == "attempts" else ""
            raise ConfigError(f"{name} belongs to a single call: use {instead}task.options({name}=...)")
    call = {name: value for name, value in options.items() if name in Options.__annotations__}
    rest = {name: check_option(name, value) for name, value in options.items() if name not in call}
    is_async = inspect.iscoroutinefunction(function)
    executor: Executor = rest.get("executor", "loop" if is_async else "thread")
    if (executor == "loop") != is_async:
        raise ConfigError(
            f"{function.__qualname__}(): coroutines run in the loop, sync functions in a thread or process"
        )
    if executor == "process" and rest.get("transaction"):
        raise ConfigError(f"{function.__qualname__}(): a transaction cannot be handed to another process")
    policy = Policy(
        retry=rest.get("retry", Retry()),
        guarantee=rest.get("delivery", "at_least_once"),
        max_losses=rest.get("max_losses", 3),
    )
    definition = Definition(
        name=rest.get("name") or check_task(f"{function.__module__}.{function.__qualname__}"),
        function=function,
        policy=policy,
        keep=rest.get("keep"),
        keep_dead=rest.get("keep_dead"),
        timeout=check_option("timeout", call.pop("timeout")) if "timeout" in call else None,
        idempotent=rest.get("idempotent"),
        executor=executor,
        transaction=rest.get("transaction", False),
        on_dead=rest.get("on_dead"),
        middleware=rest.get("middleware", ()),
        limits=rest.get("limits", ()),
        dependencies=dependencies_of(function),
        version=rest.get("version", 1),
        upcast=rest.get("upcast"),
    )
    if definition.upcast is not None and definition.version == 1:
        raise ConfigError(f"task {definition.name}: upcast= brings older calls up to date: give version=2 or more, too")
    if "retry" in rest:
        refuse_retries(definition)
    defaults = merge(CallOptions(), call)
    return Task(definition, defaults, Home(defaults))
