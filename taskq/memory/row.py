"""One job of a memory backend, with everything that changes about it."""

from math import inf

from msgspec import Struct

from taskq.job import Job

Ref = tuple[str, str]
"""A queue and an id."""


class Row(Struct, eq=False, gc=False):
    """A job and where it stands. Moments are the event loop's."""

    job: Job
    serial: int
    """The order of the enqueues."""
    due: float
    expires_at: float | None = None
    attempt: int = 1
    losses: int = 0
    fence: int = 0
    receipt: str | None = None
    """Of the last fetch; outlives its lease until it is settled or another fetch leases the job."""
    until: float = -inf
    """When the last lease ends or ended."""
    placed: bool = False
    """The row holds a place in its group."""
    key_until: float = inf
    """When the unique key lapses although the job has not ended."""
    cancelled: bool = False
    error: bytes | None = None
    outcome: bytes | None = None
    """A dead letter's."""

    @property
    def ref(self) -> Ref:
        return (self.job.queue, self.job.id)
