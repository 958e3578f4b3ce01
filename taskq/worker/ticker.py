"""Fires schedules. No leader: every worker does this, and the Store sees to it that each tick is decided once.

At a tick a worker reads the schedule's state, decides, and writes the decision down by ``swap``: of all that try, one
succeeds. What was decided is then enqueued, under the tick's own id, and ticked off. Whoever finds a decision that
nobody ticked off, because its worker died, carries it out. It may turn out that the worker only slept: then the tick
has two jobs, of which the first to start is the one that counts (``worker/claims.py``).
"""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from itertools import islice
from math import inf
from typing import Protocol

import anyio

from taskq.broker import Backend
from taskq.call import new_id
from taskq.errors import BrokerUnavailable, TaskqError
from taskq.events import Events, TickDecided, TickVerdict
from taskq.job import Enqueued, Job, JobRef
from taskq.plan import Decided, Pending, Standings, State, decide, done, is_due
from taskq.schedule import MOST, Schedule, job_of
from taskq.schedules import CHANGED, read_state, state_key, stored, swap_state
from taskq.store import Store
from taskq.timing import ticks

_log = logging.getLogger("taskq")

POLL, HINTED_POLL = 5.0, 30.0
"""Seconds between looks at what was created and removed: without hints, and with them."""
SPREAD = 0.05
"""Seconds over which the workers of one broker spread after a tick, so that most find it done."""
HELP_AFTER = 2.0
"""Seconds that a worker has to carry out what it decided before another one does."""
_TOGETHER = 20
"""Schedules looked at at once, when many are due at the same moment."""
_RETRY = 1.0
"""Seconds after which a call that failed is made again."""


class TickDesk(Protocol):
    """What a ticker needs of its app."""

    @property
    def events(self) -> Events: ...
    async def enqueue(self, job: Job) -> Enqueued: ...
    async def cancel(self, ref: JobRef) -> bool: ...


class Ticker:
    """One worker's part in the schedules of its app, and in those of the Store."""

    def __init__(
        self,
        backend: Backend,
        store: Store,
        static: Mapping[str, Schedule],
        *,
        desk: TickDesk,
        poll: float,
    ) -> None:
        self._backend = backend
        self._store = store
        self._static = static
        self._schedules: Mapping[str, Schedule] = static
        self._desk = desk
        self._poll = poll
        self._looks: dict[str, float] = {}
        """When to look at each schedule, by the event loop's clock."""
        self._refresh_at = 0.0
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._room = anyio.CapacityLimiter(_TOGETHER)

    async def run(self) -> None:
        """Fire until cancelled. Raises nothing of what the broker does."""
        async with anyio.create_task_group() as group:
            if self._backend.hints is not None:
                group.start_soon(self._listen)
            while True:
                self._changed.clear()
                await self._refresh()
                await self._look_at_due()
                with anyio.move_on_after(min([self._refresh_at, *self._looks.values()]) - self._loop.time()):
                    await self._changed.wait()

    async def _listen(self) -> None:
        assert self._backend.hints is not None, "nobody else starts this"  # noqa: S101
        while True:
            try:
                async with self._backend.hints.subscribe([CHANGED]) as heard:
                    self._look_again()
                    async for _ in heard:
                        self._look_again()
            except BrokerUnavailable:
                await anyio.sleep(_RETRY)

    def _look_again(self) -> None:
        self._refresh_at = 0.0
        self._changed.set()

    async def _refresh(self) -> None:
        """Find out what was created and removed."""
        if self._loop.time() < self._refresh_at:
            return
        self._refresh_at = self._loop.time() + self._poll
        try:
            found = {**await stored(self._store), **self._static}
        except TaskqError as error:
            self._complain("the stored schedules", error)
            self._refresh_at = self._loop.time() + _RETRY
            return
        known, self._schedules = self._schedules, found
        self._looks = {name: at for name, at in self._looks.items() if found.get(name) == known[name]}

    async def _look_at_due(self) -> None:
        now = self._loop.time()
        async with anyio.create_task_group() as group:
            for schedule in self._schedules.values():
                if self._looks.get(schedule.name, now) <= now:
                    group.start_soon(self._look, schedule)

    async def _look(self, schedule: Schedule) -> None:
        async with self._room:
            try:
                at = await self._decide(schedule)
            except TaskqError as error:
                self._complain(f"schedule {schedule.name}", error)
                self._looks[schedule.name] = self._loop.time() + _RETRY
                return
        self._looks[schedule.name] = at + random.uniform(0.0, SPREAD)  # noqa: S311

    async def _decide(self, schedule: Schedule) -> float:
        """Carry out what is due of a schedule, and answer when to look at it again, by the event loop's clock."""
        while True:
            entry = await self._store.get(state_key(schedule.name))
            read_at = self._loop.time()
            if entry.value is None and not await self._is_there(schedule):
                return read_at + self._poll
            state = read_state(entry, schedule)
            left = [pending for pending in state.pending if entry.now - pending.since >= HELP_AFTER]
            if left:
                await self._carry_out(schedule, left)
                continue
            decided, how = state, list[Decided]()
            if is_due(schedule, state, entry.now):
                decided, how = decide(schedule, state, entry.now, await self._standing(schedule, state))
            if (decided != state or entry.value is None) and not await swap_state(
                self._store, schedule, entry, decided
            ):
                continue
            for each in how:
                if each.verdict == "skipped" or each.verdict == "missed":
                    self._tell(schedule, each, each.verdict)
            await self._carry_out(schedule, decided.pending[len(state.pending) :])
            following = ticks(schedule.timetable.timing, max(decided.last, entry.now))
            helped = (pending.since + HELP_AFTER for pending in state.pending)
            return read_at + min((*islice(following, 1), *helped), default=inf) - entry.now

    async def _is_there(self, schedule: Schedule) -> bool:
        """Whether a schedule without state is new; else it was removed, and must not begin again."""
        return schedule.name in self._static or (await stored(self._store)).get(schedule.name) == schedule

    async def _standing(self, schedule: Schedule, state: State) -> Standings:
        """How its jobs stand, where that matters."""
        timetable, admin = schedule.timetable, self._backend.admin
        if admin is None or (timetable.overlap == "allow" and not timetable.block_while_failed):
            return {}
        records = [(job, await admin.lookup(JobRef(schedule.job.queue, job))) for job in state.jobs]
        return {job: "dead" if found.state == "dead" else "live" for job, found in records if found is not None}

    async def _carry_out(self, schedule: Schedule, pending: Sequence[Pending]) -> None:
        """Enqueue, and tick off. What was ticked off meanwhile by somebody else is left as it is."""
        if pending:
            refusals = [await self._fire(schedule, each) for each in pending]
            await self._tick_off(schedule, pending, refusals)

    async def _tick_off(self, schedule: Schedule, pending: Sequence[Pending], refusals: Sequence[str | None]) -> None:
        while True:
            entry = await self._store.get(state_key(schedule.name))
            if entry.value is None:
                return  # Removed.
            state = read_state(entry, schedule)
            left = state
            for each, reason in zip(pending, refusals, strict=True):
                left = done(left, each, reason, entry.now)
            if left == state or await swap_state(self._store, schedule, entry, left):
                break
        for each, reason in zip(pending, refusals, strict=True):
            if each in state.pending:
                self._tell(schedule, Decided(entry.now, "fired", each.tick, reason or ""), _became(each, reason))

    async def _fire(self, schedule: Schedule, pending: Pending) -> str | None:
        """Enqueue a tick's job; the answer says why it was refused."""
        for earlier in pending.cancel:
            await self._desk.cancel(JobRef(schedule.job.queue, earlier))
        job = job_of(schedule, pending.tick, new_id())
        try:
            answer = await self._desk.enqueue(job)
        except BrokerUnavailable:
            raise
        except TaskqError as error:
            return f"{type(error).__name__}: {error}"
        return None if answer.id == job.id else f"{answer.id} holds its unique key"

    def _tell(self, schedule: Schedule, decided: Decided, verdict: TickVerdict) -> None:
        self._desk.events.emit(
            TickDecided(
                schedule=schedule.name,
                task=schedule.job.task,
                source="code" if schedule.name in self._static else "stored",
                verdict=verdict,
                tick=decided.tick,
                late=decided.at - decided.tick,
                reason=decided.reason,
                count=decided.count or MOST,
            )
        )

    def _complain(self, what: str, error: TaskqError) -> None:
        # Of a broker that is away the fetcher tells.
        if not isinstance(error, BrokerUnavailable):
            _log.error("%s: %s", what, error)


def _became(pending: Pending, refused: str | None) -> TickVerdict:
    if refused is not None:
        return "refused"
    if pending.queued:
        return "queued"
    return "cancelled_previous" if pending.cancel else "fired"
