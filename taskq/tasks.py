"""Collections of tasks: what ``@app.task`` and ``@tasks.task`` do."""

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, Required, TypeVar, Unpack, overload

from msgspec import Struct

from taskq.collect import Collect
from taskq.definition import Definition, refuse_retries
from taskq.depends import dependencies_of
from taskq.errors import ConfigError, DuplicateTask, InvalidSchedule
from taskq.limits.declared import Declared, each_of
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
from taskq.schedule import ScheduleOptions, Timetable, make_timetable
from taskq.task import Home, Task
from taskq.timeouts import Timeouts, check_timeouts

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")


class TaskDecorator(Protocol):
    """What ``@task(...)`` answers: takes a coroutine function or a sync one."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class ScheduleDecorator(Protocol):
    """What ``@schedule(...)`` answers: takes a task, and answers it."""

    def __call__(self, task: Task[P, R], /) -> Task[P, R]: ...


class Scheduled(Struct, frozen=True):
    """A task with when it is to run, and with which arguments."""

    name: str
    task: Task[..., Any]
    timetable: Timetable
    args: Mapping[str, Any]


class CollectDecorator(Protocol):
    """What ``@task(collect=...)`` answers: takes a function of a list, and makes a task of one item."""

    @overload
    def __call__(self, function: Callable[[list[A]], Coroutine[Any, Any, R]], /) -> Task[[A], R]: ...
    @overload
    def __call__(self, function: Callable[[list[A]], R], /) -> Task[[A], R]: ...


class CollectOptions(TaskOptions, total=False):
    """What a task may say that collects its calls."""

    collect: Required[Collect]
    """One run for all calls of a key that gather in a time."""


_UNCOLLECTABLE = frozenset(
    {"unique", "on_conflict", "unique_until", "debounce", "delay", "run_at", "expires_in", "expires_at", "group"}
    | {"group_limit", "tenant", "transaction", "version", "upcast"}
)


def refuse_uncollectable(name: str, options: Mapping[str, Any], limits: Sequence[Declared]) -> None:
    """Raises ConfigError for options that make no sense for one run with the items of many calls."""
    if not isinstance(options["collect"], Collect):
        raise ConfigError(f"{name}(): collect={options['collect']!r}: give Collect(size=..., wait=...)")
    for option in sorted(_UNCOLLECTABLE.intersection(options)):
        raise ConfigError(f"{name}(): collect= decides when its items run together, so {option}= has no place there")
    if options.get("delivery") == "at_most_once":
        raise ConfigError(f"{name}(): a run with many items that may not be repeated would lose them all")
    if any(limit.key is not None for limit in each_of(limits)):
        raise ConfigError(f"{name}(): a run with many items has no single key: give limits without key=")


class Tasks:
    """A collection of tasks without an app: declare them anywhere, ``app.include()`` them where the app is."""

    def __init__(
        self,
        added: "Callable[[Task[..., Any]], None] | None" = None,
        scheduled: Callable[[Scheduled], None] | None = None,
    ) -> None:
        self.tasks: dict[str, Task[..., Any]] = {}
        self.scheduled: dict[str, Scheduled] = {}
        self._added = added
        self._scheduled = scheduled

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    @overload
    def task(self, **options: Unpack[CollectOptions]) -> CollectDecorator: ...
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

    def schedule(
        self,
        when: str | None = None,
        /,
        *,
        name: str | None = None,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleDecorator:
        """Run a task again and again: ``@app.schedule("0 3 * * *", tz="Europe/Berlin")`` above ``@app.task``.

        ``when`` is cron text, or ``"every 10s"``; ``args`` are the task's arguments by name; ``name`` tells schedules
        of one task apart. Raises InvalidSchedule.
        """
        timetable = make_timetable(when, options)

        def decorate(task: Task[P, R], /) -> Task[P, R]:
            if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance] - not all are type-checked
                raise InvalidSchedule("a schedule is made of a task: write @app.schedule(...) above @app.task")
            self.add_schedule(Scheduled(name or task.name, task, timetable, args or {}))
            return task

        return decorate

    def add_schedule(self, scheduled: Scheduled) -> None:
        """Take a schedule in; raises InvalidSchedule when its name is taken, or its arguments do not fit."""
        if scheduled.name in self.scheduled:
            raise InvalidSchedule(f"there is a schedule named {scheduled.name} already: give one of them a name=")
        if self._scheduled is not None:
            self._scheduled(scheduled)
        self.scheduled[scheduled.name] = scheduled


def make_task(function: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
    """A task that belongs to no app yet; raises ConfigError for options that make no sense."""
    for name in options:
        refuse_unknown(name, CollectOptions)
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
    collect = rest.get("collect")
    if collect is not None:
        refuse_uncollectable(function.__qualname__, options, rest.get("limits", ()))
    definition = Definition(
        name=rest.get("name") or check_task(f"{function.__module__}.{function.__qualname__}"),
        function=function,
        policy=policy,
        keep=rest.get("keep"),
        keep_dead=rest.get("keep_dead"),
        timeouts=Timeouts(
            run=check_option("timeout", call.pop("timeout")) if "timeout" in call else None,
            soft=rest.get("soft_timeout"),
            idle=rest.get("idle_timeout"),
        ),
        idempotent=rest.get("idempotent"),
        executor=executor,
        transaction=rest.get("transaction", False),
        on_dead=rest.get("on_dead"),
        on_outage=rest.get("on_outage", "spool"),
        middleware=rest.get("middleware", ()),
        limits=rest.get("limits", ()),
        collect=collect,
        precondition=rest.get("precondition"),
        capture=rest.get("capture"),
        dependencies=dependencies_of(function),
        version=rest.get("version", 1),
        upcast=rest.get("upcast"),
        said=frozenset(options),
    )
    if definition.upcast is not None and definition.version == 1:
        raise ConfigError(f"task {definition.name}: upcast= brings older calls up to date: give version=2 or more, too")
    _check_precondition(definition)
    check_timeouts(definition.name, definition.timeouts)
    if "retry" in rest:
        refuse_retries(definition)
    defaults = merge(CallOptions(), call)
    return Task(definition, defaults, Home(defaults))


def _check_precondition(definition: Definition) -> None:
    """Raises ConfigError for a precondition that does not take what the task takes."""
    if definition.precondition is None:
        return
    parameters = inspect.signature(definition.function).parameters.values()
    taken = [p for p in parameters if p.name not in definition.dependencies]
    positional = [p.name for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = {p.name: p.name for p in taken if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(definition.precondition).bind(*positional, **named)
    except TypeError as error:
        name = getattr(definition.precondition, "__qualname__", "precondition")
        raise ConfigError(f"task {definition.name}: {name}() must take the task's arguments: {error}") from error
