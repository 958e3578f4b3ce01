"""What is counted and measured, as OpenTelemetry instruments: subscribers of events, and looks at a worker."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider, Observation

from taskq.broker import QueueStats
from taskq.events import (
    BrokerLost,
    DeadLettersDropped,
    Events,
    JobAgain,
    JobDropped,
    JobEvent,
    JobFinished,
    JobRepeated,
    JobsFetched,
    JobsRecovered,
    JobsSettled,
    JobsSpooled,
    JobStarted,
    JobVetoed,
    LeaseLost,
    LimitEvent,
    LimitGranted,
    LimitRefused,
    LoopStalled,
    MemoryGrown,
    PlaceLeft,
    PlaceLost,
    PlaceTaken,
    SettlementRefused,
    TickDecided,
)
from taskq.worker.memory import memory_of
from taskq.worker.sight import Sight

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
BYTES = tuple(2**exponent for exponent in range(24, 36))
JOBS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

NAMES = {
    "taskq.job.wait": ("s", "From the moment a job was due to its fetch"),
    "taskq.job.run": ("s", "How long a job's handler ran"),
    "taskq.job.memory": ("By", "The most memory that a handler's own process held during a run"),
    "taskq.jobs.finished": ("{job}", "Jobs that ended for good, by how"),
    "taskq.jobs.again": ("{run}", "Runs after which the job runs again, by whether they counted as attempts"),
    "taskq.jobs.rescued": ("{job}", "Jobs started again because a worker died under them"),
    "taskq.jobs.vetoed": ("{job}", "Defers that a middleware refused"),
    "taskq.jobs.dropped": ("{job}", "Jobs that were lost while the broker was away, as their tasks allow"),
    "taskq.jobs.spooled": ("{job}", "Jobs, and stages of batches, that were put into the spool"),
    "taskq.jobs.recovered": ("{job}", "Those of them that the broker has by now"),
    "taskq.dead.dropped": ("{job}", "Dead letters dropped because their queue had too many"),
    "taskq.dead.lapsed": ("{job}", "Dead letters whose time to be kept was over, in all"),
    "taskq.leases.lost": ("{lease}", "Leases that were lost while the job ran"),
    "taskq.messages.repeated": (
        "{message}",
        "Messages that a companion knew for one too many",
    ),
    "taskq.settlements.refused": ("{job}", "Ends that came too late: the job had been fetched again"),
    "taskq.limit.granted": ("{grant}", "Runs and handlers that a limit let go on"),
    "taskq.limit.wait": ("s", "How long these had waited for it in their slots"),
    "taskq.limit.refused": ("{refusal}", "Jobs that a limit sent back into the queue, and handlers it made give up"),
    "taskq.limit.held": ("{place}", "Places of a Concurrency that are held here"),
    "taskq.limit.hold": ("s", "How long a place of a Concurrency was held"),
    "taskq.limit.lost": ("{place}", "Places of which somebody else had taken hold"),
    "taskq.schedule.ticks": ("{tick}", "Ticks of schedules decided here, by what became of them"),
    "taskq.schedule.lateness": ("s", "From the moment a tick was due until its job was enqueued"),
    "taskq.fetch.jobs": ("{job}", "Jobs of one fetch"),
    "taskq.fetch.empty": ("{fetch}", "Fetches that found nothing"),
    "taskq.settle.jobs": ("{job}", "Settlements of one call"),
    "taskq.settle.duration": ("s", "How long the broker took to confirm settlements"),
    "taskq.broker.lost": ("{outage}", "Times the broker stopped answering"),
    "taskq.loop.stalls": ("{stall}", "Times the event loop was reported to stand still"),
    "taskq.loop.lag": ("s", "How long the event loop last took to answer"),
    "taskq.memory": ("By", "Resident memory of the worker"),
    "taskq.memory.growths": ("{growth}", "Times the worker's memory was found to grow all along"),
    "taskq.slots": ("{slot}", "Jobs that may run at once"),
    "taskq.slots.withheld": ("{slot}", "Slots not used for now, as the event loop lags"),
    "taskq.slots.used": ("{slot}", "Jobs that run"),
    "taskq.jobs.held": ("{job}", "Jobs fetched and not yet settled"),
    "taskq.queue.jobs": ("{job}", "Jobs of a queue, by state"),
    "taskq.queue.oldest": ("s", "How long the longest-waiting ready job has waited"),
    "taskq.queue.backlog": ("s", "Ready jobs times the mean run of the queue's jobs here: the work that waits"),
}
"""Every instrument, with its unit and what it says."""

Attributes = Mapping[str, str]


class Metrics:
    """The instruments of one process."""

    def __init__(self, provider: MeterProvider | None) -> None:
        self._meter = metrics.get_meter("taskq", meter_provider=provider)
        self._wait = self._histogram("taskq.job.wait", SECONDS)
        self._run = self._histogram("taskq.job.run", SECONDS)
        self._memory = self._histogram("taskq.job.memory", BYTES)
        self._settle = self._histogram("taskq.settle.duration", SECONDS)
        self._limit_wait = self._histogram("taskq.limit.wait", SECONDS)
        unit, text = NAMES["taskq.limit.held"]
        self._limit_held = self._meter.create_up_down_counter("taskq.limit.held", unit, text)
        self._limit_hold = self._histogram("taskq.limit.hold", SECONDS)
        self._limit_granted = self._counter("taskq.limit.granted")
        self._limit_refused = self._counter("taskq.limit.refused")
        self._limit_lost = self._counter("taskq.limit.lost")
        self._ticks = self._counter("taskq.schedule.ticks")
        self._lateness = self._histogram("taskq.schedule.lateness", SECONDS)
        self._fetched = self._histogram("taskq.fetch.jobs", JOBS)
        self._settled = self._histogram("taskq.settle.jobs", JOBS)
        self._finished = self._counter("taskq.jobs.finished")
        self._again = self._counter("taskq.jobs.again")
        self._rescued = self._counter("taskq.jobs.rescued")
        self._lost = self._counter("taskq.leases.lost")
        self._repeated = self._counter("taskq.messages.repeated")
        self._refused = self._counter("taskq.settlements.refused")
        self._vetoed = self._counter("taskq.jobs.vetoed")
        self._lost_calls = self._counter("taskq.jobs.dropped")
        self._spooled = self._counter("taskq.jobs.spooled")
        self._recovered = self._counter("taskq.jobs.recovered")
        self._dropped = self._counter("taskq.dead.dropped")
        self._empty = self._counter("taskq.fetch.empty")
        self._outages = self._counter("taskq.broker.lost")
        self._stalls = self._counter("taskq.loop.stalls")
        self._growths = self._counter("taskq.memory.growths")
        self._runs: dict[str, tuple[int, float]] = {}
        """Of each queue: how many runs, and how long they took together."""

    def follow(self, events: Events) -> None:
        """Count what happens from now on."""
        events.subscribe(JobStarted, self._on_started)
        events.subscribe(JobFinished, self._on_finished)
        events.subscribe(JobAgain, self._on_again)
        events.subscribe(JobsFetched, self._on_fetched)
        events.subscribe(JobsSettled, self._on_settled)
        events.subscribe(JobVetoed, lambda event: self._vetoed.add(1, {"taskq.task": event.task}))
        events.subscribe(JobDropped, lambda event: self._lost_calls.add(1, {"taskq.task": event.task}))
        events.subscribe(JobsSpooled, lambda event: self._spooled.add(event.jobs))
        events.subscribe(JobsRecovered, lambda event: self._recovered.add(event.jobs))
        events.subscribe(DeadLettersDropped, lambda event: self._dropped.add(event.jobs, _queue(event.queue)))
        events.subscribe(JobRepeated, lambda event: self._repeated.add(1, _job(event)))
        events.subscribe(LeaseLost, lambda event: self._lost.add(1, _job(event)))
        events.subscribe(SettlementRefused, lambda event: self._refused.add(1, _job(event)))
        events.subscribe(LimitGranted, self._on_granted)
        events.subscribe(LimitRefused, lambda event: self._limit_refused.add(1, _limit(event)))
        events.subscribe(PlaceTaken, lambda event: self._limit_held.add(1, _limit(event)))
        events.subscribe(PlaceLeft, self._on_left)
        events.subscribe(PlaceLost, lambda event: self._limit_lost.add(1, _limit(event)))
        events.subscribe(TickDecided, self._on_tick)
        events.subscribe(BrokerLost, lambda _: self._outages.add(1))
        events.subscribe(LoopStalled, lambda event: self._stalls.add(1, {"taskq.task": event.task or ""}))
        events.subscribe(MemoryGrown, lambda _: self._growths.add(1))

    def watch(self, look: Callable[[], Sight]) -> None:
        """Measure a worker whenever somebody collects."""
        self._gauge("taskq.slots", lambda: [Observation(look().slots)])
        self._gauge("taskq.slots.withheld", lambda: [Observation(look().withheld)])
        self._gauge("taskq.slots.used", lambda: [Observation(look().running)])
        self._gauge("taskq.jobs.held", lambda: [Observation(look().held)])
        self._gauge("taskq.memory", lambda: [Observation(memory_of("self"))])
        self._gauge("taskq.loop.lag", lambda: [Observation(max(look().lag, look().stalled - 1.0))])

    def count(self, stats: Callable[[], Sequence[QueueStats]]) -> None:
        """Measure queues whenever somebody collects; ``stats`` is called from the collecting thread."""
        self._gauge("taskq.queue.jobs", lambda: list(_by_state(stats())))
        self._total("taskq.dead.lapsed", lambda: [Observation(one.lapsed, _queue(one.queue)) for one in stats()])
        self._gauge("taskq.queue.oldest", lambda: [Observation(one.oldest, _queue(one.queue)) for one in stats()])
        self._gauge("taskq.queue.backlog", lambda: [Observation(self._work(one), _queue(one.queue)) for one in stats()])

    def _work(self, stats: QueueStats) -> float:
        runs, seconds = self._runs.get(stats.queue, (0, 0.0))
        return stats.ready * seconds / runs if runs else 0.0

    def _on_started(self, event: JobStarted) -> None:
        attributes = _job(event)
        self._wait.record(max(0.0, event.wait), attributes)
        if event.losses:
            self._rescued.add(1, attributes)

    def _on_finished(self, event: JobFinished) -> None:
        attributes = _job(event)
        self._finished.add(1, {**attributes, "taskq.end": event.end})
        self._note_run(event)

    def _on_again(self, event: JobAgain) -> None:
        self._again.add(1, {**_job(event), "taskq.counted": "yes" if event.counted else "no"})
        self._note_run(event)

    def _note_run(self, event: JobFinished | JobAgain) -> None:
        if event.run:
            self._run.record(event.run, _job(event))
            runs, total = self._runs.get(event.queue, (0, 0.0))
            self._runs[event.queue] = (runs + 1, total + event.run)
        if event.peak:
            self._memory.record(event.peak, _job(event))

    def _on_granted(self, event: LimitGranted) -> None:
        self._limit_granted.add(1, _limit(event))
        self._limit_wait.record(event.wait, _limit(event))

    def _on_left(self, event: PlaceLeft) -> None:
        self._limit_held.add(-1, _limit(event))
        self._limit_hold.record(event.held, _limit(event))

    def _on_tick(self, event: TickDecided) -> None:
        # Those made at run time may be many, and come and go: they count together, by their tasks.
        name = event.schedule if event.source == "code" else ""
        attributes = {"taskq.task": event.task, "taskq.schedule": name}
        self._ticks.add(event.count, {**attributes, "taskq.verdict": event.verdict})
        if event.verdict not in ("skipped", "missed", "refused"):
            self._lateness.record(max(0.0, event.late), attributes)

    def _on_fetched(self, event: JobsFetched) -> None:
        self._fetched.record(event.jobs)
        if not event.jobs:
            self._empty.add(1)

    def _on_settled(self, event: JobsSettled) -> None:
        self._settled.record(event.jobs)
        self._settle.record(event.seconds)

    def _histogram(self, name: str, boundaries: Sequence[float]) -> metrics.Histogram:
        unit, text = NAMES[name]
        return self._meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=boundaries)

    def _counter(self, name: str) -> metrics.Counter:
        unit, text = NAMES[name]
        return self._meter.create_counter(name, unit, text)

    def _gauge(self, name: str, observe: Callable[[], Iterable[Observation]]) -> None:
        unit, text = NAMES[name]
        self._meter.create_observable_gauge(name, [lambda _: observe()], unit, text)

    def _total(self, name: str, observe: Callable[[], Iterable[Observation]]) -> None:
        unit, text = NAMES[name]
        self._meter.create_observable_counter(name, [lambda _: observe()], unit, text)


def _job(event: JobEvent) -> Attributes:
    return {"messaging.destination.name": event.queue, "taskq.task": event.task}


def _limit(event: LimitEvent) -> Attributes:
    return {"taskq.limit": event.limit}


def _queue(name: str) -> Attributes:
    return {"messaging.destination.name": name}


def _by_state(stats: Sequence[QueueStats]) -> Iterable[Observation]:
    for one in stats:
        for state, jobs in (("later", one.later), ("ready", one.ready), ("leased", one.leased), ("dead", one.dead)):
            yield Observation(jobs, {**_queue(one.queue), "taskq.state": state})
