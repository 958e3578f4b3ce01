"""A world in which processes die anywhere: chains, gathers and batches on memory, under a virtual clock, from one seed.

Each process sees the backend through a wrapper in which every call takes a while, before and after, and may be the last
thing that the process does: then none of its calls ever returns, and a new process takes its place. Or it stands still
for longer than a lease, and goes on where it was. What came about is judged when nothing is left to do.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from itertools import compress
from random import Random
from typing import Any
from unittest.mock import patch

from msgspec.structs import astuple, replace

from taskq import App, BatchReport, Death, Discard, Retry, current, gather
from taskq.broker import Backend, Broker, Extender, Traits
from taskq.connect import connect
from taskq.errors import BatchSealed
from taskq.handle import JobHandle
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, JobRef, Lease, Settlement
from taskq.report import read_outcome
from taskq.store import Entry, Store
from taskq.testing import VirtualClock

PATIENCE = 3600.0
"""Seconds after which what has not ended never will."""
LEASE = 30.0
CHUNK = 4
UNLUCKY = 10_000
MARKS = (0.5, 0.9, 3)
"""When batches tell of themselves before they end."""

_process: ContextVar["Process"] = ContextVar("process")


class Process:
    """Dies at a step, as a process does: it just does nothing any more. Or it does nothing for a while."""

    def __init__(self, world: "World", *, mortal: bool) -> None:
        self._world = world
        self._mortal = mortal
        self._wakes = 0.0
        self.has_slept = False
        self.died = asyncio.Event()

    async def step(self) -> None:
        world, loop = self._world, asyncio.get_running_loop()
        await asyncio.sleep(world.chance.choice((0.0, 0.0, 0.001, 0.01, 0.1)))
        if self._mortal and world.deaths < world.most_deaths:
            chance = world.chance.random()
            if chance < world.deadliness:
                world.deaths += 1
                self.died.set()
            elif world.sleepy and chance > 1 - world.deadliness / 4:
                world.deaths += 1
                self.has_slept = True
                self._wakes = loop.time() + world.chance.uniform(0.5, 4) * LEASE
        if loop.time() < self._wakes:
            # Another of its calls may put it to sleep meanwhile, which is no matter.
            await asyncio.sleep(self._wakes - loop.time())
        if self.died.is_set():
            await asyncio.get_running_loop().create_future()


class MortalBroker:
    def __init__(self, inner: Broker, process: Process, world: "World") -> None:
        self._inner = inner
        self._process = process
        self._world = world

    @property
    def traits(self) -> Traits:
        return self._inner.traits

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        await self._process.step()
        answers = await self._inner.enqueue(jobs)
        self._world.tasks.update((job.id, job.task) for job in jobs)
        await self._process.step()
        return answers

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        await self._process.step()
        deliveries = await self._inner.fetch(queues, limit, lease=lease, wait=min(wait, 60.0))
        await self._process.step()
        self._world.leased.update({one.receipt: one.job.id for one in deliveries})
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        await self._process.step()
        answers = await self._inner.settle(settlements)
        self._world.note_ends(settlements, answers)
        await self._process.step()
        return answers

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        await self._process.step()
        return await self._inner.extend(receipts, lease)


class MortalStore:
    def __init__(self, inner: Store, process: Process) -> None:
        self._inner = inner
        self._process = process

    async def get(self, key: str) -> Entry:
        await self._process.step()
        return await self._inner.get(key)

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        await self._process.step()
        done = await self._inner.swap(key, old, new, ttl=ttl)
        await self._process.step()
        return done

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        await self._process.step()
        done = await self._inner.add(key, members, ttl=ttl, ceiling=ceiling)
        await self._process.step()
        return done

    async def discard(self, key: str, members: Sequence[str]) -> int:
        await self._process.step()
        left = await self._inner.discard(key, members)
        await self._process.step()
        return left


class World:
    """What happens, by one seed."""

    def __init__(self, seed: int, backend: Backend) -> None:
        self.chance = Random(seed)
        self.backend = backend
        self.deaths = 0
        """And long sleeps."""
        self.sleepy = bool(seed % 2)
        """Processes sleep in it, too."""
        self.leaves_at_once = bool(seed // 2 % 2)
        """Members leave their batch and are settled by one call, as where jobs and Store are in one database."""
        self.most_deaths = self.chance.choice((0, 6, 12, 24))
        self.deadliness = self.chance.choice((0.005, 0.02, 0.04))
        self.leased: dict[str, str] = {}
        self.tasks: dict[str, str] = {}
        """The task of every job that was ever enqueued."""
        self.chains: list[str] = []
        """By their heads."""
        self.gathers: list[int] = []
        """How many members each has."""
        self.zombies: list[asyncio.Task[None]] = []
        self.ended: dict[str, str] = {}
        """How a job was settled for good: ``returned`` or what else; of callbacks ``returned`` is the only way."""
        self.quarantined: set[str] = set()
        self.runs: Counter[str] = Counter()
        self.told: defaultdict[str, list[tuple[str, Any]]] = defaultdict(list)
        """By batch or chain: what its callbacks got, of runs that came to their end."""
        self.sizes: Counter[str] = Counter()
        """Members that each batch must have had."""
        self.offences: list[str] = []

    @asynccontextmanager
    async def connect(self, _url: str) -> AsyncGenerator[Backend]:
        """The backend as the process of this context sees it."""
        process, inner = _process.get(), self.backend
        assert inner.store is not None
        broker = MortalBroker(inner.broker, process, self)

        @asynccontextmanager
        async def extender() -> AsyncGenerator[Extender]:
            yield broker

        async def discard_and_settle(
            key: str, members: Sequence[str], settlements: Sequence[Settlement]
        ) -> Sequence[bool] | None:
            assert inner.discard_and_settle is not None
            await process.step()
            answers = await inner.discard_and_settle(key, members, settlements)
            if answers is not None:
                self.note_ends(settlements, answers)
            await process.step()
            return answers

        yield replace(
            inner,
            broker=broker,
            extender=extender,
            store=MortalStore(inner.store, process),
            open_store=None,
            discard_and_settle=discard_and_settle if self.leaves_at_once else None,
        )

    def note_run(self, process: Process) -> None:
        """A handler begins: its job has not ended, as far as a process can know that has not slept."""
        self.runs[current().id] += 1
        if current().id in self.ended and not process.has_slept:
            self.offences.append(f"{current().id} ran after it had {self.ended[current().id]}")

    def note_ends(self, settlements: Sequence[Settlement], accepted: Sequence[bool]) -> None:
        """Some settlements were accepted."""
        for settlement in compress(settlements, accepted):
            id = self.leased[settlement.receipt]  # noqa: A001
            if isinstance(settlement, DeadLetter):
                self.ended[id] = "failed"
                if read_outcome(settlement.outcome).end == "quarantined":
                    self.quarantined.add(id)
            elif isinstance(settlement, Ack):
                self.ended[id] = "returned" if settlement.outcome is None else read_outcome(settlement.outcome).end

    def expect(self, holds: object, otherwise: str) -> None:
        """Write an offence down."""
        if not holds:
            self.offences.append(otherwise)


def declare(app: App, world: World, process: Process) -> None:
    """The tasks of every process. Handlers fail at random, each run anew: what counts is what was decided."""
    chance = world.chance
    task = app.task

    async def work(fails: float) -> int:
        world.note_run(process)
        await process.step()
        if chance.random() < fails:
            raise ValueError("by chance")
        await process.step()
        return chance.randrange(1000)

    @task(name="work", retry=1, keep=0, max_losses=3)
    async def plain(fails: float) -> int:
        return await work(fails)

    @task(name="drop", retry=1, keep=0, max_losses=UNLUCKY)
    async def drop() -> None:
        await work(0.0)
        raise Discard("as always")

    @task(name="keep", retry=Retry.fixed(2, 0.01), keep=PATIENCE, max_losses=UNLUCKY)
    async def keep(fails: float) -> int:
        return await work(fails)

    @task(name="ask", retry=1, max_losses=UNLUCKY)
    async def ask(patience: float) -> int:
        world.note_run(process)
        await process.step()
        await current().outside(patience)

    @task(name="link", retry=1, max_losses=UNLUCKY)
    async def link(_before: int, fails: float = 0.1) -> int:
        return await work(fails)

    @task(name="grow", retry=Retry.fixed(3, 0.01), keep=0, max_losses=UNLUCKY)
    async def grow(depth: int, many: int) -> None:
        own = current().batch
        assert own is not None
        if depth:
            await own.add([grow.call(depth - 1, many) for _ in range(many)])
        await work(0.1 if current().attempt < 3 else 0.0)

    @task(name="tell", max_losses=UNLUCKY, retry=Retry.fixed(UNLUCKY, 0.01))
    async def tell(name: str, event: str) -> None:
        await told(name, event, None)

    @task(name="report", max_losses=UNLUCKY, retry=Retry.fixed(UNLUCKY, 0.01))
    async def report(batch: BatchReport) -> None:
        await told(batch.id, current().id.removeprefix(f"{batch.id}."), batch)

    @task(name="death", max_losses=UNLUCKY, retry=Retry.fixed(UNLUCKY, 0.01))
    async def death(death: Death) -> None:
        await told(current().headers["taskq-follows"], current().id.rpartition(".")[2], death.id)

    @task(name="total", max_losses=UNLUCKY, retry=Retry.fixed(UNLUCKY, 0.01))
    async def total(numbers: Sequence[int]) -> int:
        await told(current().headers["taskq-follows"], "gathered", tuple(numbers))
        return sum(numbers)

    async def told(name: str, event: str, value: Any) -> None:
        world.note_run(process)
        await process.step()
        if chance.random() < 0.1:
            raise ConnectionError("a callback may have to be tried again")
        world.told[name].append((event, value))

    @task(name="produce", max_losses=UNLUCKY, retry=Retry.fixed(UNLUCKY, 0.01))
    async def produce(name: str, seed: int) -> None:
        # One that begins again after it has cancelled its batch is told so.
        with suppress(BatchSealed):
            await make(name, seed, None)

    async def make(name: str, seed: int, parent: str | None) -> None:
        plan, sizes = Random(seed), 0
        told: Any = {"then": report, "finished": report, "first_failure": death}
        excuses: Any = plan.choice((["discarded"], ["expired"]))
        batch = app.batch(name, **told, parent=parent, progress=dict.fromkeys(MARKS, report), excuses=excuses)
        async with batch:
            for _ in range(plan.randrange(4)):
                calls: list[Any] = []
                for _ in range(plan.randrange(2 * CHUNK + 2)):
                    fails = plan.choice((0.0, 0.0, 0.3))
                    match plan.randrange(8):
                        case 0:
                            calls.append(plain.call(fails).then(link).then(link))
                        case 1:
                            calls.append(grow.call(1, 2))
                            sizes += 2
                        case 2 | 3:
                            calls.append(keep.call(fails))
                        case 4 if fails:
                            calls.append(drop.call())
                        case _:
                            calls.append(plain.call(fails))
                sizes += await batch.add(calls)
                await process.step()
            if parent is None and plan.random() < 0.3:
                await make(f"{name}-inner", plan.randrange(1 << 30), name)
                sizes += 1
        if plan.random() < 0.1:
            await batch.cancel()
        world.sizes[name] = sizes


async def play(world: World) -> None:
    """Defer flows, let processes work and die, and wait until nothing is left."""
    client = Process(world, mortal=False)
    _process.set(client)
    app = App("memory://")
    declare(app, world, client)
    async with app:
        await defer_all(app, world)
        keepers = [asyncio.get_running_loop().create_task(keep_alive(world)) for _ in range(2)]
        admin = world.backend.admin
        assert admin is not None
        loop = asyncio.get_running_loop()
        while any(queue.later or queue.ready or queue.leased for queue in await admin.stats()):
            if loop.time() > PATIENCE:
                world.offences.append("jobs are left that never end")
                break
            await asyncio.sleep(5.0)
        await judge(app, world)
        for task in [*keepers, *world.zombies]:
            task.cancel()
        await asyncio.sleep(0)


async def defer_all(app: App, world: World) -> None:
    """Chains, gathers and producers of batches, as the seed has it."""
    find, chance = app.find_task, world.chance
    work, keep, link, total = map(find, ["work", "keep", "link", "total"])
    for number in range(chance.randrange(1, 4)):
        chain = keep.options(id=f"chain{number}").call(0.1).then(link).then(link)
        await app.defer(chain.on_failure(find("death")))
        world.chains.append(f"chain{number}")
    for number in range(chance.randrange(3)):
        chain = find("ask").options(id=f"ask{number}").call(PATIENCE / 6).then(link).then(link)
        asked = await app.defer(chain.on_failure(find("death")))
        world.chains.append(f"ask{number}")
        world.zombies.append(asyncio.get_running_loop().create_task(answer(asked.jobs[0], chance.uniform(0, 20))))
    for number in range(chance.randrange(1, 3)):
        heads = [keep.options(id=f"gather{number}.{n}").call(0.05) for n in range(chance.randrange(1, 6))]
        world.gathers.append(len(heads) + 1)
        await app.defer(gather(*heads, work.call(0.02).then(link)).then(total).on_failure(find("death")))
    for number in range(chance.randrange(1, 3)):
        await find("produce").options(id=f"produce{number}").defer(f"batch{number}", chance.randrange(1 << 30))


async def answer(job: JobHandle[int], after: float) -> None:
    """Somebody outside, who lives."""
    await asyncio.sleep(after)
    await job.complete(7)


async def keep_alive(world: World) -> None:
    """A place in which there is always a worker process."""
    while True:
        process = Process(world, mortal=True)
        _process.set(process)
        app = App("memory://", lease=LEASE, slots=world.chance.choice((1, 3, 10)))
        declare(app, world, process)
        running = asyncio.get_running_loop().create_task(app.run_worker())
        world.zombies.append(running)
        await process.died.wait()
        await asyncio.sleep(world.chance.random())


async def judge(app: App, world: World) -> None:
    """What must hold in the end, whatever happened on the way."""
    for name, size in world.sizes.items():
        await judge_batch(app, world, name, size)
    for head in world.chains:
        judge_chain(world, head)
    for number, size in enumerate(world.gathers):
        await judge_gather(world, app, f"gather{number}.0.all", size)


async def judge_batch(app: App, world: World, name: str, size: int) -> None:
    """Its end was told once, and as it was."""
    told = [event for event, _ in world.told[name]]
    status = await app.batch(name).status()
    # Without its moments, which are of the wall clock.
    left = None if status is None else (status.pending, status.total, status.sealed, status.cancelled)
    world.expect(status is not None and status.over is not None, f"{name} has not ended: {left}")
    for event in ("finished", "succeeded", "first_failure"):
        ended = world.ended.get(f"{name}.{event}")
        world.expect(ended in (None, "returned"), f"{name}.{event} {ended}")
    world.expect("finished" in told, f"{name}: its end was not told")
    reports = {value for event, value in world.told[name] if event in ("finished", "succeeded")}
    if status is not None and not status.cancelled:
        world.expect(reports == {r for r in reports if r.total == size}, f"{name}: {reports}, and there were {size}")
        world.expect(len(reports) == 1, f"{name} was told of differently: {reports}")
        failed = max((report.failed for report in reports), default=0)
        world.expect(("succeeded" in told) == (not failed), f"{name}: {failed} failed, and it told {told}")
        world.expect(("first_failure" in told) == bool(failed), f"{name}: {failed} failed, and it told {told}")
        judge_progress(world, name, size)
        child = await app.batch(f"{name}-inner").status()
        for report in reports:
            judge_ends(world, report, inner=child is not None and bool(child.failed or child.cancelled))


def judge_ends(world: World, report: BatchReport, *, inner: bool) -> None:
    """It counted its members as they ended."""
    name, ends = report.id, report.ends
    dead = {job for job, end in world.ended.items() if end == "failed" and job.startswith(f"{name}.")}
    failed = dead - world.quarantined
    certain = {job for job in failed if world.tasks[job] != "keep"}
    # A job that keeps its result runs again when its worker died under its end, and may then come to another.
    world.expect(
        len(certain) + inner <= ends.failed <= len(failed) + inner, f"{name}: {report}, and failed have {failed}"
    )
    quarantined = dead & world.quarantined
    world.expect(ends.quarantined == len(quarantined), f"{name}: {report}, and quarantined are {quarantined}")
    dropped = [job for job, task in world.tasks.items() if task == "drop" and job.startswith(f"{name}.")]
    world.expect(ends.discarded == len(dropped), f"{name}: {report}, and discarded are {dropped}")
    world.expect(sum(astuple(ends)) == report.failed + report.excused, f"{name}: {report} does not add up")


def judge_progress(world: World, name: str, size: int) -> None:
    """It was told on the way when it was due, and not before."""
    for mark in MARKS:
        event = f"{name}.progress-{mark}"
        due = mark < 1 or mark <= size
        world.expect(world.ended.get(event) == ("returned" if due else None), f"{event} {world.ended.get(event)}")
        for report in {value for told, value in world.told[name] if told == f"progress-{mark}"}:
            ended = report.total - report.pending
            world.expect(ended >= (mark if mark >= 1 else mark * report.total), f"{event} was told early: {report}")
            world.expect(report.succeeded >= 0 and report.total <= size, f"{event}: {report}, and there were {size}")


def judge_chain(world: World, head: str) -> None:
    """It went on, or its failure was told: one of the two."""
    jobs = [head, f"{head}.1", f"{head}.2"]
    ends = [world.ended.get(job) for job in jobs]
    broken = next((job for job, end in zip(jobs, ends, strict=True) if end == "failed"), None)
    failed = [f"{job}.failed" in world.tasks for job in jobs]
    if broken is None:
        world.expect(ends == ["returned"] * 3, f"{head}: its jobs ended as {ends}")
        world.expect(not any(failed), f"{head} returned, and its failure was told")
    else:
        index = jobs.index(broken)
        world.expect(ends[index + 1 :] == [None] * (2 - index), f"{head}: it went on after {broken} had failed: {ends}")
        world.expect(failed == [job == broken for job in jobs], f"{head}: {broken} failed, and {failed} were told")
        world.expect(world.ended.get(f"{broken}.failed") == "returned", f"{broken}.failed did not end")


async def judge_gather(world: World, app: App, name: str, size: int) -> None:
    """It went on with the results of all, or its first failure was told: one of the two."""
    members = [f"{name}.0.{number}" for number in range(size - 1)] + [f"{name}.0.{size - 1}.1"]
    ends = [world.ended.get(job) for job in members]
    gathered = [value for event, value in world.told[name] if event == "gathered"]
    if all(end == "returned" for end in ends):
        outcomes = [await app.outcome(JobRef("default", job), 0.0) for job in members]
        results = tuple(int(bytes(read_outcome(outcome or b"").value)) for outcome in outcomes)
        world.expect(gathered and set(gathered) == {results}, f"{name}: {gathered} was gathered of {results}")
    else:
        world.expect(not gathered, f"{name}: {gathered} was gathered, and its members ended as {ends}")
        told = f"{name}.first_failure"
        world.expect(world.ended.get(told) == "returned", f"{told} did not end")


def simulate(seed: int) -> list[str]:
    """The offences of one seed's world; the same seed, the same world."""

    async def main() -> list[str]:
        async with connect("memory://") as backend:
            world = World(seed, backend)
            with patch("taskq.opening.connect", world.connect), small_chunks():
                await play(world)
            return world.offences

    with VirtualClock() as clock:
        return clock.run(main())


@contextmanager
def small_chunks() -> Generator[None]:
    """Batches of a dozen members have several."""
    with ExitStack() as stack:
        for module in ("places", "batch", "start"):
            stack.enter_context(patch(f"taskq.flow.{module}.CHUNK", CHUNK))
        yield
