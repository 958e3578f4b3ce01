"""Workers that crash and lose contact at random moments, under a virtual clock: limits, unique keys, collected sets.

Each seed is one course of events. ``TASKQ_TEST_SEED=17`` plays that one; a failure names its seed.
"""

import asyncio
import inspect
import os
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from taskq import App, Collect, Concurrency, RateLimit, collect, current, memory
from taskq.broker import Backend, Extender
from taskq.errors import BrokerUnavailable
from taskq.job import Enqueued, State
from taskq.limits import line
from taskq.limits.keeper import Keeper
from taskq.limits.line import Answer, Asked, Line
from taskq.limits.rates import Rate
from taskq.retry import Retry
from taskq.store import Store
from taskq.testing import VirtualClock

LEASE = 5.0
SLOW = 0.02
"""Seconds that a call takes at most, each way."""
N, PER = 3, 2.0
EITHER = {"one": 1, "two": 2}
"""Alternatives, and what each grants in that time."""

LONG = "TASKQ_TEST_LONG" in os.environ
SEEDS: Sequence[int] = (
    [int(os.environ["TASKQ_TEST_SEED"])] if "TASKQ_TEST_SEED" in os.environ else range(1000 if LONG else 6)
)


class Process:
    """What stands between one worker and the server: slow, cut off for a time, or dead when nothing passes any more."""

    def __init__(self, chance: Random) -> None:
        self.dead = False
        self.cut = False
        self._chance = chance

    async def go(self) -> None:
        await asyncio.sleep(self._chance.random() * SLOW)
        if self.dead:
            await asyncio.Event().wait()
        if self.cut:
            raise BrokerUnavailable("out of reach") from ConnectionResetError("by the test")

    def through(self, part: Any) -> Any:
        return Passage(self, part)


class Passage:
    """A part of a backend, seen from a process; answers are lost as calls are."""

    def __init__(self, process: Process, part: Any) -> None:
        self._process = process
        self._part = part

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._process.go()
            answer = await found(*args, **kwargs)
            await self._process.go()
            return answer

        return call


opening: ContextVar[Process] = ContextVar("opening")
"""The process that opens an app."""


class World:
    """The server, the processes, and what the handlers of the living have done."""

    def __init__(self, seed: int, clock: VirtualClock, backend: Backend) -> None:
        self.chance = Random(seed)
        self.clock = clock
        self.backend = backend
        self.offences: list[str] = []
        self.holders: defaultdict[str, list[Process]] = defaultdict(list)
        self.began: defaultdict[str, list[float]] = defaultdict(list)
        self.sets: dict[str, frozenset[int]] = {}
        self.counted: Counter[int] = Counter()
        self.acknowledged: set[int] = set()
        self.processes: list[tuple[Process, asyncio.Task[None]]] = []

    @asynccontextmanager
    async def connect(self, _url: str) -> AsyncGenerator[Backend]:
        process = opening.get()
        broker, store = process.through(self.backend.broker), process.through(self.backend.store)

        @asynccontextmanager
        async def extender() -> AsyncGenerator[Extender]:
            yield broker

        @asynccontextmanager
        async def open_store() -> AsyncGenerator[Store]:
            yield store

        bare = replace(self.backend, results=None, hints=None, transactions=None, admin=None)
        yield replace(bare, broker=broker, store=store, extender=extender, open_store=open_store)

    # What runs

    def app(self, process: Process) -> App:
        app = App("memory://", lease=LEASE, slots=5, keep=0)
        often = Retry.fixed(1000, 0.5)
        gpu, spare = Concurrency(2, name="gpu"), Concurrency(1, name="spare")

        @app.task(name="call", limits=RateLimit(N, per=PER, key=("key",)), retry=often, max_losses=1000)
        async def call(key: str) -> None:
            self.begins(process, key)
            self.fails()

        one, two = (RateLimit(n, per=PER, name=name) for name, n in EITHER.items())

        @app.task(name="either", limits=one | two, retry=often, max_losses=1000)
        async def call_either() -> None:
            self.begins(process, "one" if one in current().granted else "two")
            self.fails()

        @app.task(name="train", retry=often, max_losses=1000)
        async def train(seconds: float) -> None:
            place = gpu.of(wait=3)
            async with place | spare.of(wait=3) as granted:
                await self.holding(process, *(("gpu", 2) if granted is place else ("spare", 1)), seconds)

        @app.task(name="send", limits=Concurrency(1, key=("key",)), retry=often, max_losses=1000)
        async def send(key: str, seconds: float) -> None:
            await self.holding(process, f"send {key}", 1, seconds)
            self.fails()

        @app.task(name="once", unique=("key",), retry=often, max_losses=1000)
        async def once(key: str, seconds: float) -> None:
            await self.holding(process, f"once {key}", 1, seconds)

        @app.task(name="count", collect=Collect(size=4, wait=3), retry=often, max_losses=1000)
        async def count(items: list[int]) -> None:
            self.counts(items)
            await asyncio.sleep(self.chance.random())
            self.fails()
            if not process.dead:
                self.counted.update(items)

        return app

    def begins(self, process: Process, key: str) -> None:
        if not process.dead:
            self.began[key].append(self.clock.time())

    async def holding(self, process: Process, key: str, n: int, seconds: float) -> None:
        held = self.holders[key]
        held.append(process)
        living = sum(not one.dead for one in held)
        if living > n:
            self.offences.append(f"{living} hold {key} at {self.clock.time():.2f}")
        try:
            await asyncio.sleep(seconds)
        finally:
            held.remove(process)

    def counts(self, items: Sequence[int]) -> None:
        known = self.sets.setdefault(current().id, frozenset(items))
        if known != frozenset(items):
            self.offences.append(f"the set {sorted(known)} has become {sorted(items)}")
        for job, others in self.sets.items():
            if job != current().id and not others.isdisjoint(items):
                self.offences.append(f"an item is in two sets: {sorted(others.intersection(items))}")

    def fails(self) -> None:
        if self.chance.random() < 0.1:
            raise ConnectionError("now and then")

    # What happens

    def start(self) -> None:
        process = Process(self.chance)
        context = copy_context()
        context.run(opening.set, process)
        worker = asyncio.get_running_loop().create_task(self.app(process).run_worker(), context=context)
        self.processes.append((process, worker))

    async def defer(self, app: App, number: int) -> None:
        key = self.chance.choice("ab")
        seconds = self.chance.random() * self.chance.choice([0.5, 2 * LEASE])
        for _ in range(3):
            await app.find_task("call").defer(key)
            await app.find_task("either").defer()
        await app.find_task("once").defer(key, seconds)
        await app.find_task("send").defer(key, seconds / 4)
        if self.chance.random() < 0.4:
            await app.find_task("train").defer(seconds)
        await app.find_task("count").defer(number)
        self.acknowledged.add(number)

    def happens(self) -> None:
        process, _ = self.chance.choice(self.processes[-3:])
        match self.chance.randrange(4):
            case 0:
                process.dead = True
                self.start()
            case 1:
                process.cut = True
            case _:
                for each, _ in self.processes:
                    each.cut = False

    async def live_keys(self) -> None:
        admin = self.backend.admin
        assert admin is not None
        states: Sequence[State] = ("later", "ready", "leased")
        records = [r for state in states for r in await admin.list_jobs("default", state, after=None, limit=1000)]
        keys = Counter(record.job.unique for record in records if record.job.task == "once")
        self.offences += [f"{many} live jobs hold {key}" for key, many in keys.items() if many > 1]

    async def run(self) -> None:
        customer = Process(self.chance)
        opening.set(customer)
        async with self.app(customer) as app:
            for _ in range(3):
                self.start()
            for number in range(25):
                await self.defer(app, number)
                await self.live_keys()
                await asyncio.sleep(self.chance.random() * 1.5)
                self.happens()
            for process, _ in self.processes:
                process.cut = False
            for _ in range(60):
                await self.clock.advance(10)
                if not await self.left():
                    break
            await self.judge()
        for process, worker in self.processes:
            if process.dead:
                worker.cancel()

    async def left(self) -> int:
        admin = self.backend.admin
        assert admin is not None
        return sum(line.later + line.ready + line.leased + line.dead for line in await admin.stats(["default"]))

    async def judge(self) -> None:
        if left := await self.left():
            self.offences.append(f"{left} jobs are not done")
        if not self.acknowledged <= self.counted.keys():
            self.offences.append(f"lost: {sorted(self.acknowledged - self.counted.keys())}")
        for key, moments in self.began.items():
            n = EITHER.get(key, N)
            for first, last in zip(moments, moments[n:], strict=False):
                # A grant is dated when its key is read; then come the answer, the swap and the answer to that.
                if last - first < PER - 3 * SLOW:
                    self.offences.append(f"{n + 1} calls of {key} within {last - first:.3f} s at {first:.2f}")


def play(seed: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is wrong after one course of events."""
    # Windows lie by the clock, and the line spreads what it sends by chance.
    monkeypatch.setattr(memory, "time", SimpleNamespace(time=lambda: 1_790_000_000.0))
    random.seed(seed)
    with VirtualClock() as clock:

        async def main() -> list[str]:
            async with memory.connect("memory://") as backend:
                world = World(seed, clock, backend)
                monkeypatch.setattr("taskq.opening.connect", world.connect)
                await world.run()
                return world.offences

        return clock.run(main())


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_no_limit_is_exceeded_no_key_held_twice_and_nothing_collected_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in SEEDS:
        offences = play(seed, monkeypatch)
        assert not offences, f"TASKQ_TEST_SEED={seed}: {offences[:5]}"


# What the seeds must find


def ends_early(plant: pytest.MonkeyPatch) -> None:
    async def take(self: Keeper, key: str, member: str, n: int) -> bool:
        self.places[member] = (key, n)
        return await self.store.add(key, [member], ttl=self.lease / 10, ceiling=n)

    plant.setattr(Keeper, "take", take)


def never_renewed(plant: pytest.MonkeyPatch) -> None:
    async def renew(*_: object) -> Sequence[str]:
        return ()

    plant.setattr(Keeper, "renew", renew)


def counted_beyond(plant: pytest.MonkeyPatch) -> None:
    async def take(self: Keeper, key: str, member: str, n: int) -> bool:
        # Looks first and adds then: others come in between.
        if len((await self.store.get(key)).members) >= n:
            return False
        self.places[member] = (key, n)
        return await self.store.add(key, [member], ttl=self.lease)

    plant.setattr(Keeper, "take", take)


def a_turn_is_a_grant(plant: pytest.MonkeyPatch) -> None:
    counted = line._answer  # pyright: ignore[reportPrivateUsage] - what is planted is inside

    def answer(rate: Rate, value: Line, now: float, asked: Asked) -> Answer:
        return Answer(True, 0.0) if asked.its_turn else counted(rate, value, now, asked)

    plant.setattr(line, "_answer", answer)


def swapped_blindly(plant: pytest.MonkeyPatch) -> None:
    async def answers(self: Keeper, named: tuple[str, Rate], asked: Sequence[Asked]) -> Sequence[Answer]:
        entry = await self.store.get(named[0])
        value = line.read(entry.value)
        answers = line.answer(named[1], value, entry.now, asked)
        current = (await self.store.get(named[0])).value
        await self.store.swap(named[0], current, line.written(value), ttl=60)
        return answers

    plant.setattr(Keeper, "_answer", answers)


def job_before_item(plant: pytest.MonkeyPatch) -> None:
    async def add_part(self: Any, key: str, items: Sequence[collect.Item]) -> Sequence[Enqueued]:
        number, left = await self._window(key, 3.0)
        name = f"collect:{key}:{number}.0"
        enqueued: Enqueued = await self._enqueue_window(items[0].window, name, left)
        await asyncio.sleep(0.5)
        await self._store.add(name, [item.member for item in items])
        return [enqueued] * len(items)

    plant.setattr(collect.Collector, "_add_part", add_part)


def taken_by_all(plant: pytest.MonkeyPatch) -> None:
    async def claimed(store: Store, name: str, _id: str) -> Sequence[str]:
        return sorted((await store.get(name)).members)

    plant.setattr(collect, "_claimed", claimed)


QUICK = [job_before_item, swapped_blindly]
"""The first course of events shows them; the others take more of them, and their time."""
SLOW_TO_SHOW = [ends_early, never_renewed, counted_beyond, a_turn_is_a_grant, taken_by_all]


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("bug", [*QUICK, *(SLOW_TO_SHOW if LONG else ())])
def test_the_seeds_find_a_planted_bug(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    assert any(play(seed, monkeypatch) for seed in range(100)), "100 courses of events have not shown it"
