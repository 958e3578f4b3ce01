"""A job ends with what somebody else gives: a step is skipped, or it was put off to wait for just that.

The value is written down, and the job is cancelled. Cancelling is what brings any job to its worker at once, and a
worker that is to cancel a job looks first whether a value was given for it: then it has returned that. So all that
hangs on the job's end comes about as ever, and jobs that nobody cancels pay nothing.
"""

import asyncio
from typing import Protocol

from taskq.broker import Admin
from taskq.errors import Conflict
from taskq.flow.record import PENDING
from taskq.job import Job, JobRef
from taskq.store import Store


class Host(Protocol):
    """What completing needs of an app."""

    @property
    def store(self) -> Store: ...
    @property
    def admin(self) -> Admin: ...
    async def cancel(self, ref: JobRef) -> bool:
        """Ask for a job to be cancelled."""
        ...


async def complete(host: Host, ref: JobRef, value: bytes, *, lease: float) -> bool:
    """Let a job that waits, runs, or is a dead letter end as if it had returned this; False when there is none.

    Waits for two leases at most for a run to hear that it is to end: one that does not counts by what it comes to.
    Raises Conflict for a dead letter whose unique key another job holds by now.
    """
    store, admin = host.store, host.admin
    record = await admin.lookup(ref)
    if record is None:
        return False
    await _write(store, ref, value)
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + 2 * lease, 0.02
    while record is not None and loop.time() < until:
        if record.state == "dead" and await admin.revive([ref]) == ["conflict"]:
            await take_back(store, ref)
            raise Conflict(f"job {ref.id}: another job holds its unique key by now: purge it, or wait", ref.id)
        await host.cancel(ref)
        before, record = record.state, await admin.lookup(ref)
        if record is not None and (record.state == "ready" or before == record.state == "later"):
            return True
        # Its run hears of it, or has just failed, or put it off without having heard.
        await asyncio.sleep(pause)
        pause = min(1.0, pause * 2)
    if record is None:
        await take_back(store, ref)
    return True


async def given(store: Store, job: Job | JobRef) -> bytes | None:
    """What was given for a job."""
    return (await store.get(_key(job))).value


async def take_back(store: Store, job: Job | JobRef) -> None:
    """Forget what was given for a job, which has ended."""
    value = await given(store, job)
    if value is not None:
        await store.swap(_key(job), value, None)


async def _write(store: Store, ref: JobRef, value: bytes) -> None:
    before: bytes | None = None
    while not await store.swap(_key(ref), before, value, ttl=PENDING):
        before = await given(store, ref)


def _key(job: Job | JobRef) -> str:
    return f"given:{job.queue}:{job.id}"
