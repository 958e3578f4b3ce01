"""The batch of the running job, to add members to."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from taskq.errors import ConfigError
from taskq.job import Job
from taskq.sequel import Place, Plan

Prepare = Callable[[Job], Awaitable[Job]]
"""What a job passes before it is enqueued; raises what refuses it."""


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
