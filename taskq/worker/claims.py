"""Of the jobs of one id, the first to start is the one that runs, where an id alone cannot see to it.

That a tick was fired is written down, but nothing can stop a worker that slept through it from enqueueing the same tick
again when it wakes, after the first job has long ended and its id is free; nor a relay from handing over again what one
that died had handed over. So such jobs say which of several they are, and claim their id when they start.
"""

from taskq.job import Ack, Job
from taskq.outcome import Decision
from taskq.schedule import LIFE
from taskq.store import Store
from taskq.worker.run import Run

CLAIMED = 86_400.0
"""Seconds an id stays claimed: no worker sleeps longer between a decision and its enqueue."""


async def outclaimed(store: Store, run: Run) -> Decision | None:
    """What becomes of a job whose id another one has claimed; None: it is to run."""
    job = run.delivery.job
    life = job.headers.get(LIFE)
    if life is None or await store.swap(_key(job), None, life.encode(), ttl=CLAIMED):
        return None
    if (await store.get(_key(job))).value in (life.encode(), None):
        return None
    return Decision(Ack(run.delivery.receipt), "discarded", "another job of this id has run")


def _key(job: Job) -> str:
    return f"tick:{job.queue}:{job.id}"
