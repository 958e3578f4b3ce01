"""A task as a worker runs it, and one delivery in its hands."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any, TypedDict

import msgspec
from msgspec import Struct, field

from taskq.broker import Transactions
from taskq.codec import Codec
from taskq.context import Current
from taskq.job import Delivery
from taskq.limits.declared import Limits
from taskq.means import Means
from taskq.middleware import Handler
from taskq.outcome import Decision, Interrupted, Outcome, Policy, decide
from taskq.ownbatch import Prepare
from taskq.sequel import Plan
from taskq.store import Store
from taskq.timeouts import Timeouts
from taskq.versions import Upcast
from taskq.worker.stacks import stack_of, stack_of_thread


class Runnable(Struct, frozen=True):
    """A task as a worker runs it, made once when the worker starts."""

    policy: Policy
    decode: Callable[[bytes], tuple[tuple[Any, ...], dict[str, Any]]]
    encode: Callable[[Any], bytes]
    handler: Handler
    timeouts: Timeouts | None
    transaction: bool
    version: int = 1
    upcast: Upcast | None = None
    limits: Limits | None = None
    prepare: Prepare | None = None
    """What a job passes that the handler adds to its batch."""
    codec: Codec = field(default_factory=Codec)
    grace: float = inf
    """Seconds that a run has when its worker drains."""

    def means(self, store: Store | None, transactions: Transactions | None) -> Means:
        """What its runs may use of a backend that has these parts."""
        return Means(
            loop=asyncio.get_running_loop(),
            store=store,
            transactions=transactions,
            codec=self.codec,
            grace=self.grace,
            resumes=self.policy.guarantee == "at_least_once",
            in_transaction=self.transaction,
            prepare=self.prepare,
        )


class Run(Struct, eq=False):
    """One delivery in this worker's hands, from the fetch until it is settled."""

    delivery: Delivery
    policy: Policy = Policy()
    obeys: bool = False
    """Its job has headers that the line obeys."""
    plan: Plan | None = None
    """What waits for its end, read once."""
    recalls: bool = False
    """What it comes to may have been decided before, by another job of its id."""
    runnable: Runnable | None = None
    current: Current | None = None
    fiber: asyncio.Task[None] | None = None
    """The asyncio task it runs in, once it does."""
    held_since: float = inf
    """When it was fetched, by the event loop's clock."""
    asked: Outcome | None = None
    """What the run comes to if it heeds the cancellation it was asked for."""
    lost: bool = False
    """Somebody else has the job: nothing of this run counts any more."""
    settled: bool = False
    """Its end was accepted, by its own transaction or by the broker."""
    remembered: bool = False
    """Something is known of the job beyond its row, to be forgotten when it is settled: a mark, notes."""
    given: bool = False
    """It ends with what somebody else gave."""
    started: float | None = None
    timeouts: Timeouts | None = None
    look_at: float = inf
    """When its time-outs are looked at next, by the event loop's clock."""

    @property
    def again(self) -> bool:
        """What it comes to may have been decided before, by an earlier delivery or another job of its id."""
        return self.recalls or self.delivery.losses > 0

    def ask(self, outcome: Outcome) -> None:
        """Cancel the run; the first request names the outcome. A handler that returns all the same has returned."""
        if self.asked is None:
            self.asked = outcome
        if self.current is not None:
            self.current.stop(outcome.reason if isinstance(outcome, Interrupted) else "it was asked to end")
        if self.fiber is not None and self.started is not None:
            self.fiber.cancel()

    @property
    def stack(self) -> str:
        """Where its code is: in its thread, or where its task waits; empty before it runs. Any thread may ask."""
        if self.current is not None and self.current.thread is not None:
            return stack_of_thread(self.current.thread)
        return "" if self.fiber is None else stack_of(self.fiber)

    async def close(self) -> None:
        """Heed no request to end any more: what follows is not the handler's."""
        self.fiber = None
        with suppress(asyncio.CancelledError):
            # One that came after the end.
            await asyncio.sleep(0)


Decided = tuple[Run, Decision]
"""A run that is over, and what follows from it."""


def decision_of(run: Run, outcome: Outcome | Decision) -> Decision:
    """What follows from how a run went, unless that was decided already."""
    if isinstance(outcome, Decision):
        return outcome
    return decide(outcome, run.delivery, run.policy, chance=random.random(), plan=run.plan)  # noqa: S311


def unbegun(outcome: Outcome) -> Outcome:
    """What a run that was asked to come to this comes to before it has begun."""
    return msgspec.structs.replace(outcome, begun=False) if isinstance(outcome, Interrupted) else outcome


class JobFields(TypedDict):
    """What every event about a job tells of it."""

    id: str
    task: str
    queue: str
    attempt: int


def job_fields(run: Run) -> JobFields:
    """The fields that an event about this run's job begins with."""
    job = run.delivery.job
    return {"id": job.id, "task": job.task, "queue": job.queue, "attempt": run.delivery.attempt}
