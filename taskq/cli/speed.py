"""How fast a deployment is, measured from where we are, on a queue of its own that is empty again afterwards."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from secrets import token_hex
from statistics import median, quantiles

import anyio
from msgspec import Struct

from taskq.app import App
from taskq.broker import Traits
from taskq.errors import BrokerError
from taskq.task import Task

SECONDS = 5.0
"""How long each question is asked, about."""
FLIGHT = 100
PART = 1_000
MOST = 50_000
PACE = 0.02
PATIENCE = 30.0

SLOW_TRIP = 0.005
"""Seconds that a server nearby does not take."""
BUSY = 0.8
"""The share of a core from which on a process is bound by it."""

Job = Task[[int, float], None]


class Speed(Struct, frozen=True, kw_only=True):
    """What was measured. Rates are jobs a second, times are seconds."""

    round_trip: float
    """One defer alone: the median."""
    one_by_one: float
    in_flight: float
    """With 100 defers under way at once."""
    in_bulk: float
    """With 1,000 jobs a call."""
    processed: float
    """Jobs that do nothing, in one worker process."""
    worker_cpu: float
    """The share of a core that this worker used meanwhile."""
    p50: float
    """From defer to start on the idle system."""
    p95: float
    p99: float


class Measuring:
    """One run: the questions in turn, each with an app that is open."""

    def __init__(self, url: str | None) -> None:
        self.app = App(url, keep=0)
        self.queue = f"taskq-bench-{token_hex(4)}"
        self._ran: list[float] = []
        self._goal, self._all = 0, anyio.Event()
        self._job: Job = self.app.task(name="taskq.bench", queue=self.queue)(self._run)

    async def _run(self, number: int, deferred: float) -> None:  # noqa: ARG002 - every job carries a little
        self._ran.append(time.monotonic() - deferred)
        if len(self._ran) == self._goal:
            self._all.set()

    async def measure(self, step: Callable[[str], None], seconds: float = SECONDS) -> tuple[Traits, Speed]:
        """Ask everything, tell ``step`` of each question before; the queue is emptied whatever happens."""
        async with self.app:
            try:
                step("defer, one by one")
                alone = await self._alone(seconds)
                step("defer, 100 in flight")
                in_flight = await self._rate(seconds, self._in_flight)
                step("defer, 1,000 a call")
                in_bulk = await self._rate(seconds, self._in_bulk)
                step("process")
                processed, cpu = await self._drain()
                step("latency")
                late = await self._latencies(seconds)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._empty()
            hundredths = quantiles(late, n=100, method="inclusive")
            return self.app.backend.broker.traits, Speed(
                round_trip=median(alone),
                one_by_one=len(alone) / sum(alone),
                in_flight=in_flight,
                in_bulk=in_bulk,
                processed=processed,
                worker_cpu=cpu,
                p50=hundredths[49],
                p95=hundredths[94],
                p99=hundredths[98],
            )

    async def _alone(self, seconds: float) -> Sequence[float]:
        await self._one(0)
        took: list[float] = []
        until = time.perf_counter() + seconds
        while len(took) < 2 or (time.perf_counter() < until and len(took) < MOST // 10):
            began = time.perf_counter()
            await self._one(0)
            took.append(time.perf_counter() - began)
        return took

    async def _rate(self, seconds: float, some: Callable[[], Awaitable[int]]) -> float:
        jobs, began = 0, time.perf_counter()
        while not jobs or (time.perf_counter() < began + seconds and jobs < MOST):
            jobs += await some()
        return jobs / (time.perf_counter() - began)

    async def _in_flight(self) -> int:
        async def lane() -> None:
            for number in range(10):
                await self._one(number)

        await asyncio.gather(*[lane() for _ in range(FLIGHT)])
        return 10 * FLIGHT

    async def _in_bulk(self) -> int:
        await self.app.defer_many(self._job.call(number, time.monotonic()) for number in range(PART))
        return PART

    async def _one(self, number: int) -> None:
        await self._job.defer(number, time.monotonic())

    async def _drain(self) -> tuple[float, float]:
        self._ran.clear()
        cpu, began = time.process_time(), time.perf_counter()
        await self.app.run_worker(queues=[self.queue], until="idle")
        seconds = time.perf_counter() - began
        return len(self._ran) / seconds, (time.process_time() - cpu) / seconds

    async def _latencies(self, seconds: float) -> Sequence[float]:
        self._ran.clear()
        self._goal = jobs = max(2, int(seconds / PACE))
        async with self.app.working(queues=[self.queue]):
            for number in range(jobs):
                await self._one(number)
                await anyio.sleep(PACE)
            with anyio.move_on_after(PATIENCE):
                await self._all.wait()
        return sorted(self._ran)

    async def _empty(self) -> None:
        """Leave nothing behind, also after an interruption."""
        try:
            await self.app.run_worker(queues=[self.queue], until="empty")
        except BrokerError:
            return  # What the interruption was: nobody can be told more.


class Advice(Struct, frozen=True):
    """Something to change, and why."""

    finding: str
    remedy: str


def busy_machine() -> bool:
    """Whether others want this machine's cores."""
    return os.getloadavg()[0] > 2 * (os.cpu_count() or 1)


def advise(traits: Traits, speed: Speed, *, busy: bool) -> Sequence[Advice]:
    """What these figures say should be changed, the most telling first; ``busy``: others worked on this machine."""
    trips, cores = speed.p50 / speed.round_trip, os.cpu_count() or 1
    lost = "everything" if traits.durability == "process" else "the last seconds"
    used = f"the worker process uses {speed.worker_cpu:.0%} of a core"
    every = [
        (
            busy,
            "this machine has other work",
            "measure again when it is quiet, or read these figures as what is left for you",
        ),
        (
            speed.round_trip > SLOW_TRIP,
            f"one defer takes {speed.round_trip * 1e3:.1f} ms",
            "the server is far, busy or waits for its disk: defer concurrently or with app.defer_many",
        ),
        (
            speed.p50 > max(3 * speed.round_trip, 4 * SLOW_TRIP),
            f"a job starts {speed.p50 * 1e3:.0f} ms after its defer, {trips:.0f} round trips",
            "workers are not told of new jobs and look now and then: see what `taskq doctor` says of listening",
        ),
        (
            speed.worker_cpu > BUSY,
            used,
            f"jobs that do little are bound by it: run a worker process for each of the {cores} cores",
        ),
        (speed.worker_cpu <= BUSY and not busy, used, "it waits for the server: more slots make larger batches"),
        (
            find_spec("uvloop") is None and sys.platform != "win32",
            "uvloop is not installed",
            "it takes a third off the cost of sockets: pip install uvloop",
        ),
        (
            traits.durability in ("process", "seconds"),
            f"a crash of the server may lose {lost}",
            "`taskq doctor` says which setting makes it safe",
        ),
    ]
    return [Advice(finding, remedy) for applies, finding, remedy in every if applies]
