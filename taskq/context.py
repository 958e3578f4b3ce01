"""What a handler may ask about the job it is running."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Protocol

from taskq.errors import ConfigError
from taskq.job import Delivery, Job
from taskq.sequel import FLOW, Place, Plan, plan_of

Prepare = Callable[[Job], Awaitable[Job]]
"""What a job passes before it is enqueued; raises what refuses it."""

_log = logging.getLogger("taskq.job")

running: ContextVar["Current"] = ContextVar("taskq.running")

joined: ContextVar[Mapping[object, Any]] = ContextVar("taskq.joined")
"""The transactions that the defers of this context take part in: the connection for each app."""


class Startable(Protocol):
    """A call or chain."""

    def start(self) -> Job:
        """Its first job."""
        ...


class OwnBatch:
    """The batch of the running job."""

    __slots__ = ("_plan", "_prepare", "added", "place")

    def __init__(self, plan: Plan, place: Place, prepare: Prepare | None) -> None:
        self._plan = plan
        self._prepare = prepare
        self.place = place
        """Where the job stands in it."""
        self.added: list[Job] = []

    @property
    def id(self) -> str:
        """The batch's id: ``app.batch(current().batch.id)`` asks after it."""
        return self.place.batch

    async def add(self, calls: Iterable[Startable]) -> None:
        """Add members, calls or chains, with this job's end: they are enqueued when it has returned, and then once.

        A run that raises adds nothing, so that a retry doubles nothing. Raises ConfigError where that cannot be kept:
        in a gather, or before the last job of a chain.
        """
        if self.place.collects or self._plan.next:
            raise ConfigError("members are added by the members of a batch, and by the last job of a chain in one")
        for call in calls:
            job = call.start()
            self.added.append(job if self._prepare is None else await self._prepare(job))


class Current:
    """The running job. One of these lives for one run."""

    __slots__ = ("_batch", "_prepare", "arguments", "connection", "deadline", "delivery", "stopping")

    def __init__(
        self,
        delivery: Delivery,
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
        prepare: Prepare | None = None,
    ) -> None:
        self.delivery = delivery
        self._prepare = prepare
        self._batch: OwnBatch | None = None
        self.arguments = arguments
        """Positional and keyword arguments, decoded; a middleware may replace them."""
        self.deadline: float | None = None
        """When the run will be cancelled, by the event loop's clock; None: never."""
        self.connection: Any = None
        """The transaction's connection, in a task with ``transaction=True``."""
        self.stopping = False
        """True once the run has been asked to end: time-out, cancellation, or a worker that drains. Code in threads,
        which nothing can interrupt, should look at it now and then."""

    @property
    def job(self) -> Job:
        """The job as it was enqueued."""
        return self.delivery.job

    @property
    def id(self) -> str:
        """The job's id, the same in every attempt."""
        return self.delivery.job.id

    @property
    def idempotency_key(self) -> str:
        """A key for effects outside: the same in every attempt of this job, and in no other job."""
        return self.delivery.job.id

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.delivery.job.task

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return self.delivery.job.queue

    @property
    def headers(self) -> Mapping[str, str]:
        """What the caller sent beside the arguments."""
        return self.delivery.job.headers

    @property
    def tick(self) -> datetime | None:
        """The moment at which the job's schedule was due, in UTC; None for a job that no tick brought about."""
        text = self.delivery.job.headers.get("taskq-tick")
        return None if text is None else datetime.fromisoformat(text)

    @property
    def attempt(self) -> int:
        """1 in the first attempt; losses and snoozes do not count."""
        return self.delivery.attempt

    @property
    def losses(self) -> int:
        """How many workers died under this job, or were cut off."""
        return self.delivery.losses

    @property
    def fence(self) -> int:
        """Rises with every delivery of this job: ``UPDATE … WHERE fence < ?`` lets a stale run write nothing."""
        return self.delivery.fence

    @property
    def batch(self) -> OwnBatch | None:
        """The batch that the job is a member of, to add others to it; None when it is in none."""
        if self._batch is None and FLOW in self.delivery.job.headers:
            plan = plan_of(self.delivery.job)
            if plan is not None and plan.place is not None:
                self._batch = OwnBatch(plan, plan.place, self._prepare)
        return self._batch

    @property
    def used_batch(self) -> OwnBatch | None:
        """The same, if it was asked for."""
        return self._batch

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that knows the job."""
        job = self.delivery.job
        return logging.LoggerAdapter(
            _log, {"job": job.id, "task": job.task, "queue": job.queue, "attempt": self.delivery.attempt}
        )


def current() -> Current:
    """The running job; raises RuntimeError outside of one."""
    try:
        return running.get()
    except LookupError:
        raise RuntimeError("current() is known only inside a running job") from None
