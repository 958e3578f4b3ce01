"""Working jobs off inside a test, and looking at what was deferred."""

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from taskq.app import App
from taskq.broker import Record
from taskq.errors import JobFailed, Signal
from taskq.events import JobAgain, JobFinished, WorkerStarted
from taskq.job import State
from taskq.task import Task
from taskq.testing.clock import VirtualLoop

LIVE: Sequence[State] = ("leased", "ready", "later")
_PAGE = 1000


class Worked(Struct, frozen=True):
    """What became of the jobs that were worked off, in the order in which it happened."""

    events: Sequence[JobFinished | JobAgain]

    @property
    def finished(self) -> Sequence[JobFinished]:
        """The jobs that ended."""
        return [event for event in self.events if isinstance(event, JobFinished)]

    @property
    def failures(self) -> Sequence[Exception]:
        """What handlers raised, whether or not their job runs again; ``JobFailed`` for jobs that failed without."""
        return [failure for event in self.events if (failure := _failure(event)) is not None]


def _failure(event: JobFinished | JobAgain) -> Exception | None:
    if isinstance(event.error, Exception) and not isinstance(event.error, Signal):
        return event.error
    if isinstance(event, JobFinished) and event.end in ("failed", "quarantined", "lost"):
        return JobFailed(event.end, f"job {event.id} of task {event.task}")
    return None


async def run_until_idle(
    app: App,
    *,
    until: Literal["idle", "empty"] = "idle",
    queues: Sequence[str] | None = None,
    raise_failures: bool = False,
) -> Worked:
    """Work off, in this event loop, what is due and what that defers; ``until="empty"`` also what is scheduled.

    The app is open. Scheduled jobs take the time they take, which under a virtual clock is none. With
    ``raise_failures`` what handlers raised is raised when all is done: one as it is, several as an ExceptionGroup.
    """
    events: list[JobFinished | JobAgain] = []
    ends = [app.events.subscribe(JobFinished, events.append), app.events.subscribe(JobAgain, events.append)]
    try:
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualLoop):
            await _run_by_ticks(app, loop, until, queues)
        else:
            await app.run_worker(until=until, queues=queues)
    finally:
        for end in ends:
            end()
    worked = Worked(events)
    if raise_failures and worked.failures:
        if len(worked.failures) == 1:
            raise worked.failures[0]
        raise ExceptionGroup(f"{len(worked.failures)} runs failed", worked.failures)
    return worked


async def _run_by_ticks(
    app: App, loop: VirtualLoop, until: Literal["idle", "empty"], queues: Sequence[str] | None
) -> None:
    """Go from timer to timer, and look after each whether anything is left: no looking once a second for days."""
    served: list[str] = []
    end = app.events.subscribe(WorkerStarted, lambda event: served.extend(event.queues))
    try:
        async with app.working(queues=queues, schedules=False):
            going_on = True
            while going_on:
                await loop.settle()
                stats = await app.admin.stats(served)
                left = sum(queue.ready + queue.leased + (queue.later if until == "empty" else 0) for queue in stats)
                going_on = left > 0 and await loop.tick()
    finally:
        end()


class Deferred(Struct, frozen=True):
    """A job that was deferred and has not ended."""

    task: str
    arguments: Mapping[str, Any]
    """As the handler will get them, by name, with its defaults."""
    record: Record
    """Everything else: ``record.job.queue``, ``record.state``, ``record.due`` …"""


async def deferred(app: App) -> Sequence[Deferred]:
    """Every live job of the open app, in the order of their ids.

    Raises UnknownTask for a job of another app's task, DecodeError for one that does not fit its task.
    """
    records: list[Record] = []
    for queue in await app.admin.stats():
        for state in LIVE:
            after = None
            while page := await app.admin.list_jobs(queue.queue, state, after=after, limit=_PAGE):
                records += page
                after = page[-1].job.id
    return [_deferred(app, record) for record in sorted(records, key=lambda record: record.job.id)]


def _deferred(app: App, record: Record) -> Deferred:
    signature = app.find_task(record.job.task).signature
    arguments = signature.bind(*signature.decode(record.job.body))
    for name, default in signature.defaults.items():
        arguments.setdefault(name, default)
    return Deferred(record.job.task, arguments, record)


async def assert_deferred(
    app: App, task: Task[..., Any], /, *, count: int | None = None, **arguments: Any
) -> Sequence[Deferred]:
    """The live jobs of a task whose arguments include these; raises AssertionError unless there are ``count``.

    Without a ``count`` one or more will do.
    """
    every = await deferred(app)
    found = [job for job in every if job.task == task.name and job.arguments.items() >= arguments.items()]
    if len(found) != count if count is not None else not found:
        wanted = "at least 1" if count is None else str(count)
        call = f"{task.name}({_spelled(arguments)})"
        there = "".join(f"\n  {job.task}({_spelled(job.arguments)})" for job in every) or " nothing"
        raise AssertionError(f"{call}: {len(found)} deferred, {wanted} expected; there is:{there}")
    return found


def _spelled(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


@contextmanager
def on_memory(app: App) -> Generator[App]:
    """Within the context the app opens on an empty ``memory://``, whatever its settings say, and overrides end with it.

    Enter it before the app is opened.
    """
    settings, overrides = app.settings, dict(app.overrides)
    app.settings = replace(settings, url="memory://", brokers=dict.fromkeys(settings.brokers, "memory://"))
    try:
        yield app
    finally:
        app.settings = settings
        app.overrides.clear()
        app.overrides.update(overrides)
