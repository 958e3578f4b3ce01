"""The values that cross the seams: what a caller hands over, what a worker gets, what it answers."""

from collections.abc import Mapping
from enum import Enum
from math import inf
from typing import Literal, Self

from msgspec import Struct
from msgspec.structs import replace

from taskq.errors import TaskqError

QUEUE_NAME = r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z"
"""The queue names that are fit for every backend."""

OnConflict = Literal["return", "replace", "raise"]
UniqueUntil = Literal["start", "success", "end"] | float
State = Literal["later", "ready", "leased", "dead"]


class Job(Struct, frozen=True, kw_only=True, gc=False):
    """One call of a task, as a broker stores it. Times are relative: only the backend's clock counts."""

    id: str
    task: str
    body: bytes
    """The encoded call. Brokers never look inside."""
    queue: str = "default"
    priority: int = 0
    """Larger first, within a queue."""
    delay: float = 0.0
    """Seconds until the job is due. Not together with ``run_at``."""
    run_at: float | None = None
    """Not before this moment, in seconds since the epoch by the backend's clock."""
    expires_in: float | None = None
    """The job must start within this many seconds after it first became due."""
    unique: str | None = None
    """Of the live jobs of a queue, one at most holds this key."""
    on_conflict: OnConflict = "return"
    """When the key is held: answer the holder, give the waiting holder this job's call, or refuse."""
    unique_until: UniqueUntil = "end"
    """What frees the key: the first start, any end, success alone (a dead letter goes on holding it),
    or an end or this many seconds after the enqueue, whichever is first."""
    group: str | None = None
    """Of the jobs of one group, at most ``group_limit`` are leased at once."""
    group_limit: int = 1
    """1 means in order: a started job that has to run again keeps its place."""
    tenant: str | None = None
    """Whose job it is: tenants take turns, where the broker is fair. A job of a group waits for its group alone."""
    headers: Mapping[str, str] = {}

    def aged(self, seconds: float) -> Self:
        """The same, enqueued so much later: what it was to wait it has waited, and it expires when it would have."""
        seconds = max(0.0, seconds)
        expires_in = self.expires_in
        if expires_in is not None and self.run_at is None:
            expires_in = max(0.0, expires_in - max(0.0, seconds - self.delay))
        return replace(self, delay=max(0.0, self.delay - seconds), expires_in=expires_in)

    def calling(self, other: "Job") -> Self:
        """The same with the call of another one; id, group, unique key and tenant stay."""
        return replace(
            self,
            task=other.task,
            body=other.body,
            headers=other.headers,
            priority=other.priority,
            delay=other.delay,
            run_at=other.run_at,
            expires_in=other.expires_in,
        )


class JobRef(Struct, frozen=True, gc=False):
    """Where a job is to be found: every look-up by one of these costs one round trip."""

    queue: str
    id: str


class Enqueued(Struct, frozen=True):
    """What became of one enqueued job."""

    id: str
    """The job's own id, or that of the job already holding its place."""
    added: bool
    error: TaskqError | None = None
    """Why this one job was refused; the others of the call are not concerned. ``BrokerUnavailable``: whether it was
    added is not known, as its server did not answer while others did; with its id it may be tried again."""
    dropped: bool = False
    """The broker is out of reach, and its task says that it may be lost: nobody tries again."""


class Delivery(Struct, frozen=True, kw_only=True, gc=False):
    """A job in a worker's hands."""

    job: Job
    """As it was enqueued. Its ``delay``, ``run_at`` and ``expires_in`` are spent: see ``due`` and ``expires_at``."""
    attempt: int
    """Counted ends so far, plus one."""
    losses: int
    """Leases of this job that ended unsettled: its worker died or was cut off."""
    fence: int
    """Rises with every delivery of the job and never goes back, for conditional writes."""
    receipt: str
    """Opaque, partly random proof of the lease."""
    now: float
    """The backend's clock at the fetch, in seconds since the epoch."""
    due: float
    """When this delivery became due; ``now - due`` is how long it waited."""
    expires_at: float | None = None
    cancelled: bool = False
    """Somebody asked for this job to be cancelled."""
    error: bytes | None = None
    """What the last ``Nack`` with an error said."""


class Ack(Struct, frozen=True, tag=True, gc=False):
    """Done: the job leaves the queue."""

    receipt: str
    outcome: bytes | None = None
    keep: float = 0.0
    """Seconds the outcome can be read; 0 keeps none."""


class Nack(Struct, frozen=True, tag=True):
    """Again later."""

    receipt: str
    after: float
    """Seconds until the job is due again."""
    counted: bool = True
    """False leaves the attempt as it was."""
    error: bytes | None = None
    """Kept with the job for its next delivery; None leaves what was there."""


class DeadLetter(Struct, frozen=True, tag=True):
    """Set aside with its outcome, until somebody revives or purges it."""

    receipt: str
    outcome: bytes
    keep: float = inf
    """Seconds after which the dead letter lapses by itself."""


Settlement = Ack | Nack | DeadLetter


class Lease(Enum):
    """What ``extend`` answers for one receipt."""

    HELD = "held"
    LOST = "lost"
    """The lease is not ours any more, or the job has ended."""
    CANCELLED = "cancelled"
    """Still ours, and somebody asked for the job to be cancelled."""
    UNKNOWN = "unknown"
    """The server that has the job did not answer, while others did: ask again."""
