"""The contract of a backend, in words. ``taskq.testing.BrokerContract`` is the same contract as tests.

The clause numbers (C-E1 …) name the tests that prove them. Every method may be called by any number of tasks at
once (C-A3), and raises :class:`~taskq.errors.BrokerUnavailable` (try again) or
:class:`~taskq.errors.BrokerRejected` (do not), each with the driver's error as its cause, and nothing else (C-A1).
What is due and what has expired is judged by the backend's own clock, never by a caller's (C-A2). Nothing outlives
its job: after the ack, the retention and the dedup window no key, row or entry of it remains (C-A4).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Any, Literal, Protocol

from msgspec import Struct

from taskq.job import Delivery, Enqueued, Job, JobRef, Lease, Settlement, State
from taskq.store import Store

Guarantee = Literal["at_least_once", "at_most_once"]
Durability = Literal["process", "seconds", "disk", "replicated"]


class Traits(Struct, frozen=True, kw_only=True):
    """What this deployment promises: what the code can do, less what the server is not configured for."""

    delivery: frozenset[Guarantee] = frozenset({"at_least_once", "at_most_once"})
    """The delivery guarantees this broker can give."""
    durability: Durability
    """What an acknowledged enqueue survives. ``process``: nothing; ``seconds``: a crash may lose the last
    seconds; ``disk``: a crash of the machine; ``replicated``: the loss of a machine."""
    idempotent: bool
    """Enqueueing a live id again adds nothing (C-E3)."""
    dedup_window: float = 0.0
    """For this many seconds after a job ended, its id is still not added again."""
    unique: bool
    """Unique keys are kept (C-E4)."""
    ordered: bool
    """Larger priority first, then oldest due first (C-F4)."""
    bands: bool = False
    """Larger priority is asked for first, in so many steps as are configured; nothing is promised of the order."""
    groups: bool
    """``group`` and ``group_limit`` are kept (C-F7)."""
    fair: bool = False
    """Tenants of a queue take turns (C-F8)."""
    exclusive: bool
    """No delivery of a job while another one's lease lasts (C-F1)."""
    fenced: bool
    """A void receipt settles and extends nothing (C-F3)."""
    exact_attempts: bool
    """``attempt`` and ``losses`` are exact (C-F2)."""
    max_delay: float = inf
    """Seconds; a later job is snoozed towards its moment by the worker."""
    max_lease: float = inf
    """Seconds a job can be held in all."""
    linger: float = 0.0
    """Seconds for which closing may wait for a call that is never cut off."""
    max_size: int
    """Bytes of body; a larger job is refused with ``PayloadTooLarge``."""
    max_batch: int
    """Jobs in one call; the core sends larger sequences in parts."""
    pipelined: bool = False
    """Calls of ``enqueue`` go over one connection, so one that begins while another is under way comes behind it."""


class Broker(Protocol):
    """A durable queue of leased jobs."""

    @property
    def traits(self) -> Traits:
        """What this deployment promises, as found when it was opened."""
        ...

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        """Add jobs; one answer each, in order (C-E2).

        When it returns the jobs are as durable as ``traits.durability`` says (C-E1). Each is added whole or not at
        all, and a call that raised may be repeated (C-E5). A broker whose jobs are on several servers answers
        BrokerUnavailable for those whose server is away, and raises it when that is so of all. A job whose id is live
        is not added again (C-E3). A job
        whose unique key is held is treated as its ``on_conflict`` says (C-E4): ``return`` answers the holder's id,
        ``raise`` answers a ``Conflict``, ``replace`` gives the waiting holder this job's task, body, headers,
        priority, due moment and expiry while it keeps its id, group and attempt, and answers a ``Conflict`` when
        the holder is leased.
        """
        ...

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        """Lease up to ``limit`` due jobs for ``lease`` seconds, waiting up to ``wait`` seconds for the first.

        Only due jobs under no live lease come (C-F1); larger priority first, then oldest due first, queues in the
        order given (C-F4); of a group at most ``group_limit`` at once (C-F7). Of the jobs of one tenant that are in no
        group one stands in line at a time, the first by C-F4, and the next one comes behind all that are due by then
        (C-F8). A lease runs from the fetch; when it ends unsettled the job can be fetched again by anyone, as a loss
        (C-F2, C-F3). A cancelled fetch withholds no job longer than one lease (C-F5). A waiting fetch returns soon
        after a job arrives or becomes due, and with ``[]`` when ``wait`` is over (C-F6).
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """End leases; ``False`` where the receipt was void and nothing changed (C-S1).

        An ack removes the job and keeps its outcome for ``keep`` seconds (C-S2). A nack makes it due again after
        ``after`` seconds (C-S3). A dead letter leaves the queue, frees its unique key (but for ``success``) and its
        place in its group, and is kept with its outcome (C-S4). A receipt settles once (C-S5). A lease that ran
        out can still be settled until another fetch has leased the job (C-F3). A broker whose jobs are on several
        servers may raise PartlySettled, a BrokerUnavailable that says which of them were settled.
        """
        ...

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        """Let the leases end ``lease`` seconds from now; one answer each, in order (C-X1).

        A broker whose jobs are on several servers answers UNKNOWN for those whose server is away, and raises
        BrokerUnavailable when that is so of all.
        """
        ...


class Extender(Protocol):
    """The one verb that another event loop may use."""

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        """As :meth:`Broker.extend`."""
        ...


class DiscardAndSettle(Protocol):
    """What a backend can do whose jobs and Store are in one place."""

    async def __call__(
        self, key: str, members: Sequence[str], settlements: Sequence[Settlement]
    ) -> Sequence[bool] | None:
        """:meth:`~taskq.store.Store.discard` and :meth:`Broker.settle` jobs of one queue: both happen, or neither.

        None when no member is left: they were discarded, and nothing was settled.
        """
        ...


class Results(Protocol):
    """Every end leaves one encoded outcome for as long as its settlement said."""

    async def outcome(self, ref: JobRef, *, wait: float) -> bytes | None:
        """The outcome of an ended job, waiting up to ``wait`` seconds for it; None when there is none.

        A dead letter's outcome can be read for as long as the dead letter is kept.
        """
        ...


class Hint(Struct, frozen=True):
    """A message that speeds something up and that nothing depends on."""

    channel: str
    data: str


class Hints(Protocol):
    """Messages to every listener of a channel, each delivered at most once, and now and then not at all."""

    async def publish(self, channel: str, data: str) -> None:
        """Tell whoever listens now."""
        ...

    def subscribe(self, channels: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[Hint]]:
        """Listen from the moment the context is entered until it is left. The iterator outlives lost connections."""
        ...


class Transactions(Protocol):
    """Part-taking in transactions of the database that carries the queue."""

    def join(self, connection: Any) -> Broker:
        """A broker whose ``enqueue`` and ``settle`` happen with the commit of the caller's transaction, or never.

        Its other verbs raise ``BrokerRejected``. Raises ``ConfigError`` for a connection that is not of this
        database's kind.
        """
        ...

    def begin(self) -> AbstractAsyncContextManager[Any]:
        """A connection inside a transaction of its own: committed when the context is left, rolled back by a raise."""
        ...


class QueueStats(Struct, frozen=True, kw_only=True):
    """How many jobs of a queue are in each state."""

    queue: str
    later: int
    ready: int
    leased: int
    dead: int
    oldest: float
    """Seconds the longest-waiting ready job has waited; 0.0 when none waits."""
    lapsed: int = 0
    """Dead letters of the queue so far whose time to be kept was over; not among those that are counted above."""


class Record(Struct, frozen=True, kw_only=True):
    """One stored job, as an operator sees it."""

    job: Job
    state: State
    attempt: int
    """Counted ends so far, plus one."""
    losses: int
    due: float
    """When it is or was due; for a leased job when its lease ends, for a dead one when it was set aside."""
    expires_at: float | None = None
    cancelled: bool = False
    error: bytes | None = None
    """What the last ``Nack`` with an error said."""
    outcome: bytes | None = None
    """A dead letter's outcome."""


Revival = Literal["revived", "conflict", "unknown"]


class Admin(Protocol):
    """What an operator may see and do. Looking never changes anything."""

    async def stats(self, queues: Sequence[str] = ()) -> Sequence[QueueStats]:
        """Counts of the named queues, or of every queue that holds a job, by name."""
        ...

    async def lookup(self, ref: JobRef) -> Record | None:
        """A live job or dead letter; None when there is none of this id."""
        ...

    async def find(self, id: str) -> Record | None:
        """The same by a bare id; may cost a look into every queue."""
        ...

    async def list_jobs(self, queue: str, state: State, *, after: str | None, limit: int) -> Sequence[Record]:
        """Up to ``limit`` jobs of one state by rising id, those behind the id ``after``."""
        ...

    async def cancel(self, refs: Sequence[JobRef]) -> Sequence[bool]:
        """Ask for live jobs to be cancelled: a waiting one becomes due at once, its next delivery says ``cancelled``
        (C-X2); a leased one is told by ``extend``. ``False`` where no live job has the id."""
        ...

    async def revive(self, refs: Sequence[JobRef]) -> Sequence[Revival]:
        """Make dead letters ready again at attempt 1, losses 0, due now (C-S4).

        ``conflict`` when their unique key is held.
        """
        ...

    async def purge(self, refs: Sequence[JobRef]) -> Sequence[bool]:
        """Remove dead letters for good; ``False`` where there is none of this id."""
        ...


class Finding(Struct, frozen=True):
    """Something that an operator should know: of a task before it runs, or of the servers behind a backend."""

    subject: str
    """The task's name, or what was looked at."""
    level: Literal["error", "warning", "ok"]
    """``error``: a need that was declared cannot be kept; ``warning``: it works, until something happens."""
    message: str
    remedy: str = ""


Doctor = Callable[[], Awaitable[Sequence[Finding]]]
"""Looks at the servers as they are now and changes nothing; says as ``ok``, too, what was looked at."""


class Setup(Protocol):
    """Makes what a backend needs on its servers, when an operator asks for it."""

    async def plan(self, queues: Sequence[str]) -> Sequence[str]:
        """What :meth:`apply` would do for these queues, a line for each step; none when all is as declared."""
        ...

    async def apply(self, queues: Sequence[str]) -> Sequence[str]:
        """Do it, and answer what was done. Removes nothing."""
        ...


class Migration(Struct, frozen=True):
    """One step that brings a schema forward."""

    number: int
    name: str
    sql: str


class Migrations(Protocol):
    """The schema of a backend that somebody has to bring up to date: what the entry point of the group
    ``taskq.migrations`` answers for a URL, whether or not a backend could be opened there."""

    async def lacking(self) -> Sequence[Migration]:
        """The steps that the schema lacks, in order."""
        ...

    async def apply(self) -> Sequence[Migration]:
        """Carry out what is lacking, all or nothing, and answer what was done."""
        ...

    def script(self, steps: Sequence[Migration]) -> str:
        """These steps for whoever carries them out by hand."""
        ...

    def roles(self) -> str:
        """A script that creates a role to migrate, one that can enqueue and no more, and one to work."""
        ...


class Backend(Struct, frozen=True, kw_only=True):
    """What a backend's ``connect(url, **options)`` hands over: the parts it has. What it lacks it cannot do."""

    broker: Broker
    extender: Callable[[], AbstractAsyncContextManager[Extender]]
    """Opens an extend-only handle of its own, to be used from another thread's event loop."""
    results: Results | None = None
    hints: Hints | None = None
    store: Store | None = None
    open_store: Callable[[], AbstractAsyncContextManager[Store]] | None = None
    """Opens a handle of the store of its own, to be used from another thread's event loop."""
    discard_and_settle: DiscardAndSettle | None = None
    """Spares those who leave a batch a call of their own, and the wait for it."""
    transactions: Transactions | None = None
    admin: Admin | None = None
    doctor: Doctor | None = None
    setup: Setup | None = None
    rouse: Callable[[], None] | None = None
    """Lets every fetch that waits in this process answer at once with what it has, which may be nothing (C-A3). Without
    it a worker that drains waits for its last fetch, a second at most."""
