"""One question: why is this job where it is? Asked again of what it waits for."""

import re
from collections.abc import AsyncIterator

from taskq.broker import Admin, Record
from taskq.errors import MissingCapability
from taskq.explain.evidence import ended_of, gather
from taskq.explain.reasons import Explanation, Reason, explained, explained_end
from taskq.flow.batch import Batch
from taskq.flow.start import Host
from taskq.job import JobRef
from taskq.sequel import plan_of

_CALLBACK = re.compile(
    r"([A-Za-z0-9][\w.-]{0,99})\.(?:succeeded|finished|first_failure|progress-[\d.]+)(?:\.\d+)?", re.ASCII
)
_TELLS = re.compile(r"(.+)\.(?:dead|failed)")
_STEP = re.compile(r"(.+)\.([0-9]{1,3})")


async def explain(host: Host, id: str, queue: str | None = None) -> Explanation:
    """Why a job does not run, runs, or ran more than once, as far as that is recorded.

    Without its queue it is searched for everywhere; how one ended that is gone is known only with it. Raises
    MissingCapability where the broker has no administration.
    """
    admin = host.backend.admin
    if admin is None:
        raise MissingCapability("this broker has no administration: pair it with a companion store")
    record = await (admin.find(id) if queue is None else admin.lookup(JobRef(queue, id)))
    if record is not None:
        return explained(await gather(host.backend, admin, record))
    if queue is not None:
        ended = await ended_of(host.backend, JobRef(queue, id))
        if ended is not None:
            return explained_end(id, queue, ended)
    awaited = tuple([reason async for reason in _awaited(host, admin, id)])
    if awaited:
        return Explanation(id, queue, None, "awaited", awaited)
    hint = "; with its queue it is told how, as long as that is kept" if queue is None else ""
    text = f"no queue holds a job of this id: it has ended, or never was{hint}"
    return Explanation(id, queue, None, "unknown", (Reason("unknown", text),))


async def _awaited(host: Host, admin: Admin, id: str) -> AsyncIterator[Reason]:
    """What a job waits for that has not been enqueued yet: ids tell whom they follow."""
    if found := _CALLBACK.fullmatch(id):
        status = await Batch(host, found[1]).status() if host.backend.store is not None else None
        if status is not None:
            open_still = "" if status.sealed else "; it is open: its producer may add more"
            text = f"batch {found[1]} has {status.pending} of {status.total} members left, {status.failed} failed"
            yield Reason("batch", text + open_still, status.over, f"taskq batch {found[1]} --failed")
            return
    if found := _TELLS.fullmatch(id):
        record = await admin.find(found[1])
        if record is not None:
            yield await _follows(host, record)
            return
    async for record in _before(admin, id):
        yield await _follows(host, record)
        return


async def _before(admin: Admin, id: str) -> AsyncIterator[Record]:
    """The job of a chain whose plan has this one in it, the nearest first."""
    found = _STEP.fullmatch(id)
    if found is None:
        return
    for number in range(int(found[2]) - 1, -1, -1):
        record = await admin.find(f"{found[1]}.{number}" if number else found[1])
        plan = None if record is None else plan_of(record.job)
        if record is not None and plan is not None and any(step.job.id == id for step in plan.next):
            yield record


async def _follows(host: Host, record: Record) -> Reason:
    before = await explain(host, record.job.id, record.job.queue)
    text = f"it is enqueued when {record.job.id} ({record.job.task}) has ended, which is {record.state}"
    return Reason("follows", text, because=before.reasons)
