"""Runs deliveries, so many at once, each in an asyncio task and a context of its own."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from taskq.events import Events, JobStarted
from taskq.job import Delivery
from taskq.limits.declared import Limits
from taskq.outcome import Decision, Interrupted, Outcome, Raised
from taskq.worker.admission import Admission
from taskq.worker.deadlines import Deadlines
from taskq.worker.run import Run, job_fields, unbegun
from taskq.worker.runner import Runner

_log = logging.getLogger("taskq")

SUSPICIOUS = 2
"""A job under which so many workers died runs alone, so that it takes no healthy neighbour with it."""
MAKES_WAY = Interrupted(begun=False, reason="it makes way for a job under which workers died")


class Slots:
    """Places to run jobs. What is fetched beyond the free ones waits in line for the next that frees."""

    def __init__(
        self,
        size: int,
        runner: Runner,
        events: Events,
        *,
        held: Collection[object],
        finish: Callable[[Run, Outcome | Decision], None],
        changed: Callable[[], None],
        admission: Admission | None = None,
        beside: "list[Slots] | None" = None,
    ) -> None:
        self.size = size
        self.running: dict[str, Run] = {}
        """By receipt."""
        self.expecting = False
        """A fetch for these is under way."""
        self.ended = 0
        """Runs so far that came to an end here."""
        self._runner = runner
        self._events = events
        self.held = held
        """Everything fetched and not yet settled."""
        self._finish = finish
        self._changed = changed
        """Called whenever a slot frees and nothing waits for it."""
        self._admission = admission
        """Asks the limits of tasks that have some."""
        self._beside: list[Slots] = [] if beside is None else beside
        """All slots of the process, these among them: a suspect takes none of their jobs with it either."""
        self._beside.append(self)
        self._waiting: deque[Run] = deque()
        self._suspects: deque[Run] = deque()
        self._suspect: Run | None = None
        """The last one that was begun."""
        self._context = runner.surroundings()
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self.running.values())

    @property
    def idle(self) -> int:
        """Places nobody runs in or waits for; none while a suspect waits to run alone or runs."""
        return 0 if self.blocked else max(0, self.size - len(self.running) - len(self._waiting))

    @property
    def waiting(self) -> int:
        """Runs in line for a place."""
        return len(self._waiting)

    @property
    def blocked(self) -> bool:
        """True while nothing may be fetched because a suspect is to run alone in the process."""
        return any(slots.suspicious for slots in self._beside)

    @property
    def suspicious(self) -> bool:
        """Whether the suspect is one of these."""
        return bool(self._suspects) or (
            self._suspect is not None and self.running.get(self._suspect.delivery.receipt) is self._suspect
        )

    def start(self, deliveries: Iterable[Delivery], hold: Callable[[Sequence[Run]], None]) -> None:
        """Run what may be run, as soon as there is a place; ``hold`` is told of all first."""
        prepared = [self._runner.prepare(delivery) for delivery in deliveries]
        hold([run for run, _ in prepared])
        for run, refused in prepared:
            if refused is not None:
                self._finish(run, refused)
            elif run.delivery.losses >= SUSPICIOUS:
                self._suspects.append(run)
            else:
                self._waiting.append(run)
        self.expecting = False
        for slots in self._beside:
            slots.advance()

    def give_back(self, why: Interrupted) -> None:
        """Hand back, uncounted, whatever has not begun."""
        self.hand_on(why)
        self._give_back(self._suspects, why)
        self._changed()

    def hand_on(self, why: Interrupted) -> None:
        """Hand back, uncounted, whatever waits in line for a place."""
        self._give_back(self._waiting, why)

    def cancel(self, runs: Iterable[Run], outcome: Outcome) -> None:
        """Ask runs to end with this outcome; one that has not begun ends at once."""
        for run in runs:
            run.ask(outcome)
            for line in (self._waiting, self._suspects):
                if run in line:
                    line.remove(run)
                    self._finish(run, unbegun(outcome))

    def close(self) -> None:
        """Watch no deadlines any more."""
        self._deadlines.close()

    def running_in(self, fiber: asyncio.Task[object] | None) -> Run | None:
        """The run of an asyncio task; may be asked from another thread."""
        return next((run for run in list(self.running.values()) if fiber is not None and run.fiber is fiber), None)

    def advance(self) -> None:
        """Begin what may begin now; called whenever something has been settled.

        A suspect begins when it is the only job this process holds: whatever else is held, be it a finished one whose
        end the broker has not heard of, would lose its lease with it, and in the end be taken for the culprit.
        """
        if self._suspects or len(self._beside) > 1:
            self._make_way([slots for slots in self._beside if slots is not self])
        while self._waiting and len(self.running) < self.size:
            self._launch(self._waiting.popleft())

    def _make_way(self, others: Iterable["Slots"]) -> None:
        if any(slots.suspicious for slots in others):
            self.give_back(MAKES_WAY)
        elif self._suspects:
            self._give_back(self._waiting, MAKES_WAY)
            self._give_back(self._suspects, MAKES_WAY, but=1)
            for slots in others:
                slots.advance()
            if sum(len(slots.held) + slots.expecting for slots in self._beside) == 1:
                self._suspect = self._suspects.popleft()
                self._launch(self._suspect)

    def _give_back(self, line: deque[Run], why: Interrupted, but: int = 0) -> None:
        while len(line) > but:
            self._finish(line.pop(), why)

    def _launch(self, run: Run) -> None:
        self.running[run.delivery.receipt] = run
        # A copy each: nothing leaks from job to job.
        run.fiber = self._loop.create_task(self._run(run), context=self._context.copy())

    async def _run(self, run: Run) -> None:
        limits = None if run.runnable is None else run.runnable.limits
        outcome: Outcome | Decision
        try:
            if limits is None or self._admission is None:
                self._begin(run)
                outcome = await self._runner.run(run)
            else:
                outcome = await self._run_limited(run, limits, self._admission)
        except BaseException as error:  # noqa: BLE001 - a job that nobody ends would be held, and extended, for ever
            _log.exception("job %s: its run broke off outside of its handler", run.delivery.job.id)
            outcome = Raised(error if isinstance(error, Exception) else RuntimeError(f"broken off by {error!r}"))
        del self.running[run.delivery.receipt]
        self.ended += 1
        self._finish(run, outcome)
        if self._waiting or self._suspects:
            self.advance()
        if not self._waiting:
            self._changed()

    async def _run_limited(self, run: Run, limits: Limits, admission: Admission) -> Outcome | Decision:
        # Until it has begun nothing cancels it, and that takes a moment at most.
        outcome: Outcome | Decision | None = await admission.admit(run, limits)
        if outcome is None:
            self._begin(run)
            outcome = await self._runner.run(run)
        await admission.release(run)
        return outcome

    def _begin(self, run: Run) -> None:
        run.started = self._loop.time()
        if run.timeouts is not None:
            self._deadlines.watch(run)
        if JobStarted in self._events.listeners:
            wait = run.delivery.now - run.delivery.due
            self._events.emit(JobStarted(**job_fields(run), wait=wait, losses=run.delivery.losses))
