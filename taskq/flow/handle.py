"""A deferred chain or gather in its caller's hands."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar, cast

from taskq.handle import JobHandle, Status, failure_of

R = TypeVar("R")


class FlowHandle(Generic[R]):
    """The jobs of a chain or gather, in their order. Those that have not been enqueued yet have their ids already."""

    __slots__ = ("_gathered", "id", "jobs")

    def __init__(
        self, id: str, jobs: Sequence[JobHandle[Any]], gathered: Sequence[JobHandle[Any]] | None = None
    ) -> None:
        self.id = id
        """That of the last job, or the gather's own."""
        self.jobs = jobs
        self._gathered = gathered
        """Whose results are the result, if not that of the last job."""

    def __repr__(self) -> str:
        return f"FlowHandle({self.id})"

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """What the last job returned, or all of a gather.

        Waits up to ``timeout`` seconds, for ever by default. Raises the JobError of the first job that did not return,
        in their order, and ResultNotReady when time is over.
        """
        loop = asyncio.get_running_loop()
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        until = None if seconds is None else loop.time() + seconds
        for job in self.jobs:
            ended = await job.outcome(None if until is None else max(0.0, until - loop.time()))
            if ended.end != "returned":
                raise failure_of(ended)
        if self._gathered is not None:
            return cast("R", tuple([await job.result(0) for job in self._gathered]))
        result: R = await self.jobs[-1].result(0)
        return result

    async def status(self) -> Status:
        """That of the first job that has not returned, or of the last."""
        status: Status = "gone"
        for job in self.jobs:
            status = await job.status()
            if status != "returned":
                break
        return status

    async def cancel(self) -> bool:
        """Ask for what is live of it to be cancelled; what follows is then never enqueued. False when nothing is."""
        return any([await job.cancel() for job in self.jobs])
