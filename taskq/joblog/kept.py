"""What is kept of jobs' lines, and where."""

from taskq.job import JobRef
from taskq.joblog.lines import Captured, read
from taskq.store import Store

KEPT = 3 * 86_400.0
"""Seconds that lines are kept, from the last one on."""


def key_of(ref: JobRef) -> str:
    """Where a job's lines are."""
    return f"log:{ref.queue}:{ref.id}"


async def kept_lines(store: Store, ref: JobRef) -> Captured | None:
    """A job's last lines; None when there are none, or not any more."""
    value = (await store.get(key_of(ref))).value
    return None if value is None else read(value)
