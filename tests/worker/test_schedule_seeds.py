"""Schedules under random delays, sleeps and deaths of the workers that fire them, on a virtual clock.

Four workers share two schedules for an hour. Each of their calls may take long, be slept through, lose its answer or
be the last of its worker. Whatever happens, the history says of each tick once what became of it, what fired ran once,
nothing else ran, and what must not overlap did not. The same seeds find each planted bug.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from math import inf
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar

import anyio
import pytest
from msgspec.structs import replace

from taskq import App, current
from taskq.errors import BrokerUnavailable
from taskq.events import TickDecided
from taskq.job import Enqueued, Job, JobRef
from taskq.plan import Pending, State
from taskq.schedule import Overlap, Schedule, ScheduleOptions, job_id, job_of
from taskq.schedules import Listed, state_key, swap_state
from taskq.store import Entry, Store
from taskq.testing import VirtualClock
from taskq.timing import ticks
from taskq.worker.ticker import Ticker
from tests.e2e.harness import LONG

T = TypeVar("T")
Ran = Counter[str]

PART = 25
SEEDS = 1000 if LONG else PART
WORKERS = 4
HOUR = 3600.0


class Death(Exception):
    """The worker's process is gone."""


class Trouble:
    """What may happen around a call."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.over = False

    async def around(self, call: Callable[[], Awaitable[T]]) -> T:
        await self._may_happen()
        answer = await call()
        await self._may_happen()
        return answer

    async def _may_happen(self) -> None:
        if self.over:
            return
        chance = self._random.random()
        if chance < 0.04:
            raise Death
        if chance < 0.08:
            raise BrokerUnavailable("by the test")
        if chance < 0.14:
            await anyio.sleep(self._random.uniform(1, 900))
        elif chance < 0.6:
            await anyio.sleep(self._random.uniform(0, 0.1))


class TroubledStore:
    def __init__(self, store: Store, trouble: Trouble) -> None:
        self._store = store
        self._trouble = trouble

    async def get(self, key: str) -> Entry:
        return await self._trouble.around(lambda: self._store.get(key))

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        return await self._trouble.around(lambda: self._store.swap(key, old, new, ttl=ttl))

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        return await self._store.add(key, members, ttl=ttl, ceiling=ceiling)

    async def discard(self, key: str, members: Sequence[str]) -> int:
        return await self._store.discard(key, members)


class TroubledDesk:
    def __init__(self, app: App, trouble: Trouble) -> None:
        self._app = app
        self._trouble = trouble
        self.events = app.events

    async def enqueue(self, job: Job) -> Enqueued:
        return await self._trouble.around(lambda: self._app.enqueue(job))

    async def cancel(self, ref: JobRef) -> bool:
        return await self._trouble.around(lambda: self._app.cancel(ref))


async def fire_and_die(app: App, random: Random, trouble: Trouble) -> None:
    """One worker after another, each until it dies."""
    while True:
        store = TroubledStore(app.store, trouble)
        desk = TroubledDesk(app, trouble)
        try:
            await Ticker(app.backend, store, app.schedules.static, desk=desk, poll=inf).run()
        except* Death:
            pass
        await anyio.sleep(random.uniform(0, 600))


async def an_hour(seed: int, clock: VirtualClock) -> str | None:
    """What is wrong after an hour of trouble; None when nothing is."""
    random = Random(seed)
    trouble = Trouble(random)
    ran: Ran = Counter()
    together: Ran = Counter()
    most: Ran = Counter()
    told: Counter[tuple[str, float]] = Counter()
    app = App("memory://", slots=20)

    app.events.subscribe(TickDecided, lambda event: told.update([(event.schedule, event.tick)]))

    @app.schedule("*/5 * * * *", name="often", overlap=random.choice(OVERLAPS))
    @app.schedule("*/3 * * * *", name="always", **random.choice(MISFIRES))
    @app.task(name="report")
    async def report() -> None:
        ran[current().id] += 1
        name = current().id.partition("@")[0]
        together[name] += 1
        most[name] = max(most[name], together[name])
        try:
            await anyio.sleep(random.choice([0, 0, 20, 400]))
        finally:
            together[name] -= 1

    async with app, app.working(schedules=False):
        # They begin before there is any trouble.
        with anyio.move_on_after(0.001):
            await Ticker(app.backend, app.store, app.schedules.static, desk=app, poll=inf).run()
        began = (await app.store.get("")).now
        async with anyio.create_task_group() as workers:
            for _ in range(WORKERS):
                workers.start_soon(fire_and_die, app, random, trouble)
            await clock.advance(HOUR)
            trouble.over = True
            # Whoever still sleeps wakes up, and what is left is carried out.
            await clock.advance(HOUR / 2)
            workers.cancel_scope.cancel()
        await clock.advance(HOUR / 2)
        for listed in await app.schedules.list():
            wrong = verdict(listed, began, ran)
            if wrong is not None:
                return f"seed {seed}: {listed.schedule.name} {listed.schedule.timetable}: {wrong}"
    if told and max(told.values()) > 1:
        return f"seed {seed}: ticks were told of twice: {told.most_common(3)}"
    return f"seed {seed}: {most['often']} of one schedule ran together" if most["often"] > 1 else None


OVERLAPS: Sequence[Overlap] = ("skip", "queue_one", "cancel_previous")
MISFIRES: Sequence[ScheduleOptions] = ({"misfire": "skip"}, {"misfire": "latest"}, {"misfire": "all", "limit": 3})


def verdict(listed: Listed, began: float, ran: Ran) -> str | None:
    """Whether the history tells of each tick once, and of what ran the truth."""
    schedule, state = listed.schedule, listed.state
    due = list(takewhile(lambda tick: tick <= state.last, ticks(schedule.timetable.timing, began)))
    told = [
        tick for decided in state.history for tick in due if decided.tick <= tick <= (decided.until or decided.tick)
    ]
    if told != due:
        return f"due were {due}, decided about {told}"
    if len(due) < HOUR / 400:
        return f"nobody was there any more: {due}"
    fired = {job_id(schedule.name, decided.tick) for decided in state.history if decided.verdict == "fired"}
    here = Counter({job: times for job, times in ran.items() if job.startswith(f"{schedule.name}@")})
    # A job may be cancelled while it waits.
    unheard: set[str] = set() if schedule.timetable.overlap == "cancel_previous" else fired - here.keys()
    if unheard or here.keys() - fired or any(times > 1 for times in here.values()):
        return f"fired {sorted(fired)}, ran {here}"
    return None


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every memory backend opens a second after noon."""
    monkeypatch.setattr("taskq.memory.time", SimpleNamespace(time=lambda: 1_772_366_401.0))


def after_an_hour(seed: int) -> str | None:
    with VirtualClock() as clock:
        return clock.run(an_hour(seed, clock))


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_whatever_happens_to_workers_each_tick_is_decided_once_and_what_fired_ran_once(first: int) -> None:
    assert [wrong for seed in range(first, first + PART) if (wrong := after_an_hour(seed)) is not None] == []


# Planted bugs


async def moved_before_enqueue(self: Any, schedule: Schedule, pending: Sequence[Pending]) -> None:
    await self._tick_off(schedule, pending, [None] * len(pending))
    for each in pending:
        await self._fire(schedule, each)


async def claimed_by_nobody(*_: Any) -> None:
    return None


async def written_without_looking(store: Store, schedule: Schedule, _: Entry, state: State) -> bool:
    await swap_state(store, schedule, await store.get(state_key(schedule.name)), state)
    return True


def named_anew(schedule: Schedule, tick: float, life: str) -> Job:
    return replace(job_of(schedule, tick, life), id=f"{job_id(schedule.name, tick)}+{life}")


@pytest.mark.parametrize(
    ("target", "bug"),
    [
        ("taskq.worker.ticker.Ticker._carry_out", moved_before_enqueue),
        ("taskq.worker.link.outclaimed", claimed_by_nobody),
        ("taskq.worker.ticker.swap_state", written_without_looking),
        ("taskq.worker.ticker.job_of", named_anew),
    ],
)
def test_the_same_seeds_find_a_planted_bug(target: str, bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, bug)

    assert any(after_an_hour(seed) is not None for seed in range(PART))
