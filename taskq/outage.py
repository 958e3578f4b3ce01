"""What becomes of a call whose broker is out of reach, where its task says something else than the app does."""

import logging
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from msgspec.structs import replace

from taskq.broker import Backend
from taskq.brokers import Sending
from taskq.errors import BrokerUnavailable
from taskq.events import Events, JobDropped
from taskq.job import Enqueued, Job
from taskq.options import OnOutage
from taskq.sequel import FLOW
from taskq.task import Task

_log = logging.getLogger("taskq")

QUIET = 60.0
"""Seconds between two lines in the log about dropped jobs."""


class Outages:
    """Knows what tasks say, and lets go of jobs that may be lost."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]], events: Events) -> None:
        self._tasks = tasks
        self._events = events
        self._untold = 0
        self._told_at = float("-inf")

    def keeps(self, job: Job) -> bool:
        """Whether it waits in the spool, if there is one."""
        return self._policy(job) == "spool"

    def drops(self, job: Job) -> bool:
        """Whether it may be lost."""
        return self._policy(job) == "drop"

    def drop(self, job: Job, error: BrokerUnavailable) -> Enqueued:
        """Let a job go: it is counted, and told of now and then."""
        self._events.emit(JobDropped(task=job.task, reason=str(error)))
        self._untold += 1
        now = monotonic()
        if now - self._told_at >= QUIET:
            _log.warning("the broker is out of reach: %d jobs were dropped, the last of %s", self._untold, job.task)
            self._untold, self._told_at = 0, now
        return Enqueued(job.id, added=False, dropped=True)

    def around(self, backend: Backend) -> Backend:
        """The backend with an enqueue of many jobs that drops what may be lost; raises when not all of them may."""
        broker = backend.broker

        async def enqueue(jobs: Sequence[Job]) -> Sequence[Enqueued]:
            try:
                answers = await broker.enqueue(jobs)
            except BrokerUnavailable as error:
                if not all(map(self.drops, jobs)):
                    raise
                return [self.drop(job, error) for job in jobs]
            return [
                self.drop(job, answer.error)
                if isinstance(answer.error, BrokerUnavailable) and self.drops(job)
                else answer
                for job, answer in zip(jobs, answers, strict=True)
            ]

        return replace(backend, broker=Sending(broker, broker.traits, enqueue))

    def _policy(self, job: Job) -> OnOutage:
        task = self._tasks.get(job.task)
        # Others may wait for the end of what is part of a flow.
        return "spool" if task is None or FLOW in job.headers else task.definition.on_outage
