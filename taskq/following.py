"""What follows from a job's end: who is told of a death, what its chain goes on with, what its batch hears. Pure."""

import msgspec
from msgspec import Struct

from taskq.job import DeadLetter, Delivery, Job, Settlement
from taskq.report import Death, End, Ended, history_of, read_outcome
from taskq.sequel import FOLLOWS, Leave, Plan, begin, follow_up

Following = tuple[tuple[Job, ...], Leave | None]
"""What is enqueued, and the batch that is left then."""


class FollowUp(Struct, frozen=True):
    """A task that is told of an end, in one argument."""

    task: str
    queue: str
    argument: str

    def told(self, death: Death, job: Job) -> Job:
        """The job that tells it."""
        body = msgspec.json.encode({"v": 1, "args": {self.argument: death}})
        # The caller's context goes with it; what the call said of its own retries and time-outs does not.
        carried = {name: text for name, text in job.headers.items() if not name.startswith("taskq-")}
        headers = {**carried, FOLLOWS: job.id}
        return Job(id=f"{job.id}.dead", task=self.task, body=body, queue=self.queue, headers=headers)


def death_of(delivery: Delivery, reason: str, ended: Ended) -> Death:
    """What is told of a job that did not return."""
    job, error = delivery.job, ended.errors[-1] if ended.errors else None
    return Death(job.id, job.task, job.queue, ended.end, reason, delivery.attempt, error, ended.worker)


def going_on(delivery: Delivery, plan: Plan, value: bytes | None, adds: tuple[Job, ...]) -> Following:
    """The next of the chain is enqueued; behind the last one the batch is left."""
    if plan.next:
        return (begin(plan, value or b"null", follows=delivery.job.id),), None
    return (), leaving(delivery, plan, adds)


def leaving(delivery: Delivery, plan: Plan, adds: tuple[Job, ...]) -> Leave | None:
    """The batch is left by a job that returned, if it is in one."""
    return None if plan.place is None else Leave(plan.place, succeeded=True, adds=adds, fence=delivery.fence)


def breaking_off(delivery: Delivery, plan: Plan, settlement: Settlement, end: End, reason: str) -> Following:
    """What was to follow does not; who asked is told."""
    job = delivery.job
    ended = read_outcome(settlement.outcome) if isinstance(settlement, DeadLetter) else None
    ended = ended or Ended(end, errors=history_of(delivery).errors)
    told = msgspec.json.encode(death_of(delivery, reason, ended))
    leaves = None if plan.place is None else Leave(plan.place, succeeded=False, death=told)
    if plan.failed is None:
        return (), leaves
    return (follow_up(plan.failed, told, follows=job.id, id=f"{job.id}.failed"),), leaves
