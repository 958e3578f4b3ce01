"""One job of a memory backend, with everything that changes about it."""

from math import inf

from taskq.job import Job

Ref = tuple[str, str]
"""A queue and an id."""


class Row:
    """A job and where it stands. Moments are the event loop's."""

    __slots__ = (
        "attempt",
        "cancelled",
        "due",
        "error",
        "expires_at",
        "fence",
        "job",
        "key_until",
        "losses",
        "outcome",
        "placed",
        "receipt",
        "serial",
        "until",
    )

    def __init__(self, job: Job, serial: int, due: float) -> None:
        self.job = job
        self.serial = serial
        """The order of the enqueues."""
        self.due = due
        self.expires_at: float | None = None
        self.attempt = 1
        self.losses = 0
        self.fence = 0
        self.receipt: str | None = None
        """Of the last fetch; outlives its lease until it is settled or another fetch leases the job."""
        self.until = -inf
        """When the last lease ends or ended."""
        self.placed = False
        """The row holds a place in its group."""
        self.key_until = inf
        """When the unique key lapses although the job has not ended."""
        self.cancelled = False
        self.error: bytes | None = None
        self.outcome: bytes | None = None
        """A dead letter's."""

    @property
    def ref(self) -> Ref:
        return (self.job.queue, self.job.id)
