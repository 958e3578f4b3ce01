"""What happened, for logs and metrics: frozen values, handed to whoever subscribed, skipped when nobody did."""

import logging
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from msgspec import Struct

_log = logging.getLogger("taskq")


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened."""


class JobEvent(Event, frozen=True, kw_only=True):
    """Something that happened to one job."""

    id: str
    task: str
    queue: str
    attempt: int


class JobStarted(JobEvent, frozen=True, kw_only=True):
    """A handler is about to run."""

    wait: float
    """Seconds between becoming due and being fetched."""
    losses: int
    """How many workers died under it before."""


class JobFinished(JobEvent, frozen=True, kw_only=True):
    """A job ended for good."""

    end: str
    """``returned``, ``failed``, ``quarantined``, ``lost``, ``cancelled``, ``expired`` or ``discarded``."""
    run: float
    """Seconds its last run took; 0.0 when it was not run."""
    wait: float = 0.0
    """Seconds between becoming due and being fetched, that last time."""
    error: BaseException | None = None
    peak: int = 0
    """Bytes of resident memory that the handler's own process held at most; 0 of handlers that have none."""
    grown: int = 0
    """Bytes by which the worker's highest memory rose while it ran in a thread, whatever else ran meanwhile."""
    reason: str = ""
    """Why, where more is known than the error: of a job under which workers died, who had it last, and how."""


class JobAgain(JobEvent, frozen=True, kw_only=True):
    """A job will run again."""

    after: float
    """Seconds from now."""
    counted: bool
    """Whether this run used up an attempt."""
    reason: str
    run: float
    wait: float = 0.0
    """Seconds between becoming due and being fetched."""
    error: BaseException | None = None
    peak: int = 0
    grown: int = 0


class SettlementRefused(JobEvent, frozen=True, kw_only=True):
    """A settlement came too late: the job had been fetched again, and this run's end did not count."""

    end: str | None = None
    """The end that was told of and did not come to be, if one was."""


class JobRepeated(JobEvent, frozen=True, kw_only=True):
    """A message brought a job that had ended, or that somebody has in hand; it was recognised, and not run."""


class LeaseLost(JobEvent, frozen=True, kw_only=True):
    """A running job's lease was lost; its run is being cancelled."""


class JobVetoed(Event, frozen=True, kw_only=True):
    """A defer middleware refused a job."""

    task: str
    reason: str


class JobDropped(Event, frozen=True, kw_only=True):
    """A job was lost as its broker was out of reach, and its task says ``on_outage="drop"``."""

    task: str
    reason: str


class JobsSpooled(Event, frozen=True, kw_only=True):
    """The broker was out of reach, and jobs, items to be collected or stages of batches were put into the spool."""

    jobs: int


class JobsRecovered(Event, frozen=True, kw_only=True):
    """Jobs, items or stages of batches of the spool were handed over."""

    jobs: int
    refused: int
    """How many others the broker refused: they stay in the spool, with the reason."""


class DeadLettersDropped(Event, frozen=True, kw_only=True):
    """A queue had more dead letters than its caps allow, and the oldest ones were dropped for good."""

    queue: str
    jobs: int
    size: int
    """Bytes of their calls and outcomes."""


class JobsFetched(Event, frozen=True, kw_only=True):
    """A fetch was answered."""

    jobs: int
    """0: the broker had none."""
    seconds: float


class JobsSettled(Event, frozen=True, kw_only=True):
    """The broker confirmed settlements."""

    jobs: int
    seconds: float


class LoopStalled(Event, frozen=True, kw_only=True):
    """The worker's event loop did not turn for ``seconds``."""

    seconds: float
    id: str | None
    """The job whose code was running, when it is known."""
    task: str | None
    stack: str


class MemoryGrown(Event, frozen=True, kw_only=True):
    """The worker's memory grew all along over a number of runs, as it does when something leaks."""

    jobs: int
    """Runs."""
    grown: int
    """Bytes of resident memory gained meanwhile."""
    memory: int
    """Bytes of it now."""


TickVerdict = Literal["fired", "queued", "cancelled_previous", "skipped", "missed", "refused"]


class TickDecided(Event, frozen=True, kw_only=True):
    """A tick of a schedule, told once, where the decision was made that counted: a job's when that is enqueued."""

    schedule: str
    task: str
    source: Literal["code", "stored"]
    """Whether the schedule was written with the app, or made at run time."""
    verdict: TickVerdict
    """``fired``, ``queued`` (behind a job that has not ended), ``cancelled_previous`` (it fired, and earlier jobs were
    asked to end), ``skipped`` (its overlap, or a dead letter), ``missed`` (nobody was there) or ``refused``."""
    tick: float
    """When it was due, by the backend's clock."""
    late: float
    """Seconds from then until it was enqueued or decided against."""
    reason: str = ""
    """Why it did not fire."""
    count: int = 1
    """How many missed ticks this one was the first of; a thousand at most."""


class LimitEvent(Event, frozen=True, kw_only=True):
    """Something that happened at a limit."""

    limit: str
    """Its name; that of the task where it has none. Its keys count together."""


class LimitGranted(LimitEvent, frozen=True, kw_only=True):
    """A limit let a run or a handler go on."""

    wait: float
    """Seconds it was waited for, in the slot."""


class LimitRefused(LimitEvent, frozen=True, kw_only=True):
    """A limit sent a job into its line, or a handler had waited long enough."""

    after: float
    """Seconds until it is worth another try."""


class PlaceTaken(LimitEvent, frozen=True, kw_only=True):
    """A place of a Concurrency is held from now on, until a PlaceLeft tells otherwise."""


class PlaceLeft(LimitEvent, frozen=True, kw_only=True):
    """A place of a Concurrency is free again."""

    held: float
    """Seconds it was held."""


class PlaceLost(LimitEvent, frozen=True, kw_only=True):
    """A holder was cut off for longer than a lease, and somebody else has its place; its run is being cancelled."""


class BrokerLost(Event, frozen=True, kw_only=True):
    """The broker stopped answering; the worker backs off and keeps trying."""

    error: BaseException
    broker: str = "default"
    """Its name in the app."""


class BrokerRegained(Event, frozen=True, kw_only=True):
    """The broker answers again."""

    seconds: float
    """How long it did not."""
    broker: str = "default"


class WorkerStarted(Event, frozen=True, kw_only=True):
    """A worker has begun to fetch."""

    queues: tuple[str, ...]
    slots: int


class WorkerDraining(Event, frozen=True, kw_only=True):
    """A worker has stopped fetching and lets what runs finish."""

    running: int


class WorkerStopped(Event, frozen=True, kw_only=True):
    """A worker has settled all it held."""


E = TypeVar("E", bound=Event)
Listener = Callable[[Any], None]


class Events:
    """Hands each event to the listeners of its class, at once and in the emitting thread."""

    def __init__(self) -> None:
        self.listeners: dict[type[Event], list[Listener]] = {}
        """By class of event: ``if JobStarted in events.listeners`` keeps a silent event from being built."""

    def subscribe(self, kind: type[E], listener: Callable[[E], None]) -> Callable[[], None]:
        """Call ``listener`` with every event of exactly this class; the answer ends the subscription.

        A listener must not block: it is called where the event happened. What it raises is logged and goes no further.
        """
        self.listeners.setdefault(kind, []).append(listener)

        def end() -> None:
            listeners = self.listeners.get(kind, [])
            if listener in listeners:
                listeners.remove(listener)
            if not listeners:
                self.listeners.pop(kind, None)

        return end

    def emit(self, event: Event) -> None:
        """Hand an event to its listeners."""
        for listener in tuple(self.listeners.get(type(event), ())):
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener's failure must not become the job's
                _log.exception("a listener of %s failed", type(event).__name__)
