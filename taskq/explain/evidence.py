"""Everything that may tell why a job does not run: asked for, not judged."""

import time
from collections.abc import Sequence

from msgspec import Struct

from taskq.broker import Admin, Backend, QueueStats, Record
from taskq.job import JobRef
from taskq.limits.line import Line, read
from taskq.report import Ended, History, read_history, read_outcome
from taskq.worker.control import PAUSED_KEY, Paused, what_is_paused
from taskq.worker.register import Entry, workers

LOOKED_AT = 1000
"""Jobs of one state that are looked through: what comes before a job, or holds its group's places, is among them."""


class Evidence(Struct, frozen=True, kw_only=True):
    """What is known of one job."""

    record: Record
    now: float
    """The backend's clock."""
    history: History
    ended: Ended | None
    """How a dead letter ended."""
    stats: QueueStats
    paused: Paused = {}
    workers: Sequence[Entry] | None = None
    """None: they cannot be seen."""
    ready: Sequence[Record] = ()
    """Others of its queue that are ready, as many as were looked at."""
    holders: Sequence[Record] = ()
    """Others of its group that have a place in it."""
    line: Line | None = None
    """Of the limit in whose line it stands."""


async def gather(backend: Backend, admin: Admin, record: Record) -> Evidence:
    """What the backend tells of this job, in a few round trips."""
    store, job = backend.store, record.job
    entries = None if store is None or record.state == "dead" else await workers(store, backend.hints)
    # Behind the workers, which take their time to answer: what they ran by then is leased.
    record = await admin.lookup(JobRef(job.queue, job.id)) or record
    history = read_history(record.error)
    (stats,) = await admin.stats([job.queue])
    ready: Sequence[Record] = ()
    holders: list[Record] = []
    if record.state == "ready":
        ready = [one for one in await admin.list_jobs(job.queue, "ready", after=None, limit=LOOKED_AT) if one != record]
        if job.group is not None:
            leased = await admin.list_jobs(job.queue, "leased", after=None, limit=LOOKED_AT)
            later = await admin.list_jobs(job.queue, "later", after=None, limit=LOOKED_AT)
            holders = [one for one in [*leased, *later, *ready] if one.job.group == job.group and has_place(one)]
    turn = history.turn
    return Evidence(
        record=record,
        now=time.time() if store is None else (await store.get(PAUSED_KEY)).now,
        history=history,
        ended=None if record.outcome is None else read_outcome(record.outcome),
        stats=stats,
        paused={} if store is None else await what_is_paused(store),
        workers=entries,
        ready=ready,
        holders=holders,
        line=None if turn is None or store is None else read((await store.get(turn)).value),
    )


async def ended_of(backend: Backend, ref: JobRef) -> Ended | None:
    """How a job ended that is gone, as long as that is kept."""
    if backend.results is None:
        return None
    outcome = await backend.results.outcome(ref, wait=0.0)
    return None if outcome is None else read_outcome(outcome)


def has_place(record: Record) -> bool:
    """Whether it holds a place of its group: it is leased, or it has begun where jobs run in order."""
    begun = record.attempt > 1 or record.losses > 0 or record.error is not None
    return record.state == "leased" or (begun and record.job.group_limit == 1)
