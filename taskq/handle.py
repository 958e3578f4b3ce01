"""A deferred job in its caller's hands: wait for it, look at it, cancel it."""

from collections.abc import Callable
from datetime import timedelta
from math import inf
from typing import Any, Generic, Literal, Protocol, TypeVar

from taskq.broker import Record
from taskq.errors import (
    JobCancelled,
    JobDiscarded,
    JobError,
    JobExpired,
    JobFailed,
    JobLost,
    JobTimeout,
    ResultNotKept,
    ResultNotReady,
)
from taskq.job import JobRef, State
from taskq.ledger.notes import Progress
from taskq.report import End, Ended, read_outcome
from taskq.standing import UNKNOWN, Standing, standing_after, standing_of

R = TypeVar("R")

Status = State | End | Literal["gone"]

_POLL = 30.0
"""Seconds one call to the backend waits at most: long waits are made of these, so that no connection hangs for ever."""


class Desk(Protocol):
    """What a handle needs of its app."""

    async def outcome(self, ref: JobRef, wait: float) -> bytes | None: ...
    async def lookup(self, ref: JobRef) -> Record | None: ...
    async def progress(self, ref: JobRef) -> Progress | None: ...
    async def cancel(self, ref: JobRef) -> bool: ...
    async def complete(self, ref: JobRef, value: object) -> bool: ...
    def run_sync(self, function: Callable[..., Any], *args: Any) -> Any: ...


class JobHandle(Generic[R]):
    """One deferred job."""

    __slots__ = ("_decode", "_desk", "_keep", "added", "dropped", "ref")

    def __init__(
        self,
        desk: Desk,
        ref: JobRef,
        decode: Callable[[bytes], R],
        keep: float,
        *,
        added: bool,
        dropped: bool = False,
    ) -> None:
        self._desk = desk
        self._decode = decode
        self._keep = keep
        self.ref = ref
        self.added = added
        """False when a job that was there already holds the place: this handle is then that job's; or when it was
        dropped."""
        self.dropped = dropped
        """True when the broker was out of reach, and the task says ``on_outage="drop"``: nothing will ever run."""

    def __repr__(self) -> str:
        return f"JobHandle({self.ref.queue}/{self.ref.id})"

    @property
    def id(self) -> str:
        """The job's id."""
        return self.ref.id

    @property
    def queue(self) -> str:
        """The queue it went to."""
        return self.ref.queue

    async def result(self, timeout: float | timedelta | None = None) -> R:
        """What the handler returned.

        Waits up to ``timeout`` seconds, for ever by default. Raises the JobError that tells how else the job ended,
        ResultNotReady when time is over, and ResultNotKept at once for a task that keeps nothing.
        """
        ended = await self.outcome(timeout)
        if ended.end == "returned":
            return self._decode(bytes(ended.value))
        raise failure_of(ended)

    async def outcome(self, timeout: float | timedelta | None = None) -> Ended:
        """How the job ended, whichever way; raises only ResultNotReady and ResultNotKept, as :meth:`result` does."""
        if self.dropped:
            raise ResultNotKept(f"job {self.id} was dropped, as its broker was out of reach: it never runs")
        left = inf if timeout is None else timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        if not self._keep:
            found = await self._desk.outcome(self.ref, 0.0)
            if found is None:
                raise ResultNotKept(f"job {self.id}: its task keeps no results; say how long with @task(keep=…)")
            return read_outcome(found)
        while True:
            wait = min(left, _POLL)
            found = await self._desk.outcome(self.ref, wait)
            if found is not None:
                return read_outcome(found)
            left -= wait
            if left <= 0:
                raise ResultNotReady(
                    f"job {self.id} has not ended within {timeout} s; `taskq explain {self.id}` tells why"
                )

    def result_sync(self, timeout: float | timedelta | None = None) -> R:
        """As :meth:`result`, from code without an event loop."""
        result: R = self._desk.run_sync(self.result, timeout)
        return result

    async def status(self) -> Status:
        """Its state while it lives, its end while that is kept, ``gone`` afterwards."""
        record = await self._desk.lookup(self.ref)
        if record is not None and record.state != "dead":
            return record.state
        outcome = await self._desk.outcome(self.ref, 0.0)
        if outcome is not None:
            return read_outcome(outcome).end
        return "gone" if record is None else record.state

    async def standing(self) -> Standing:
        """How it stands now, in the words of who waits for it: derived, never stored, so it cannot be out of date."""
        record = await self._desk.lookup(self.ref)
        if record is not None:
            return standing_of(record)
        outcome = await self._desk.outcome(self.ref, 0.0)
        return UNKNOWN if outcome is None else standing_after(read_outcome(outcome))

    async def progress(self) -> Progress | None:
        """What the job said last of how far it is; None when it said nothing, or has ended."""
        return await self._desk.progress(self.ref)

    async def complete(self, value: R) -> bool:
        """Let the job end as if its handler had returned this, without it: a step that waits for somebody, or failed.

        What follows it goes on. One that runs is cancelled, a dead letter is revived for it; what has been returned by
        then counts. False when there is no such job any more. Raises Conflict for a dead letter whose unique key
        another job holds.
        """
        return await self._desk.complete(self.ref, value)

    async def cancel(self) -> bool:
        """Ask for the job to be cancelled: a waiting one never runs, a running one is cancelled within about a second.

        False when it has ended already. The answer does not wait for the end: see :meth:`outcome`.
        """
        return await self._desk.cancel(self.ref)


def failure_of(ended: Ended) -> JobError:
    """The error that tells a caller how a job ended without a result."""
    last = ended.errors[-1] if ended.errors else None
    match ended.end:
        case "cancelled":
            return JobCancelled("the job was cancelled")
        case "expired":
            return JobExpired("the job could not start in time")
        case "discarded":
            return JobDiscarded(ended.reason or "the job was discarded")
        case "lost":
            return JobLost(ended.reason)
        case _ if last is not None and last.type == "taskq.errors.JobTimeout":
            return JobTimeout(last.message)
        case _ if last is not None:
            return JobFailed(last.type, last.message, last.traceback)
        case _:
            return JobFailed(ended.end, ended.reason)
