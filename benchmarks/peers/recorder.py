"""What every side does the same way: takes an order, keeps a ledger, answers in JSON.

Only the standard library is used, because each program runs in the environment of its peer.
"""

import asyncio
import inspect
import json
import os
import resource
import sys
import threading
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

FLIGHT = 100
"""Defers under way at once; a peer without asyncio uses THREADS threads, its better setting (more are slower)."""
THREADS = 8
BULK = 1_000
SETTLING = 0.3
"""Seconds after the last run: acks reach the server, and a job that is run twice shows itself."""

Call = tuple[int, str]
"""A job's arguments: its number and its content."""


@dataclass(frozen=True)
class Order:
    """What one program is to do, once."""

    role: str
    """``setup``, ``defer``, ``work``, or ``share`` the work with other processes"""
    url: str
    jobs: int = 0
    first: int = 0
    """The number of the first job."""
    how: str = "one"
    """``one`` by one, 100 in ``flight``, in ``bulk``, or ``paced``"""
    kind: str = "noop"
    """``noop``, ``nap`` (10 ms), ``payload`` (10 KiB), ``cpu`` (about 1 ms), ``stamp`` (says when it was
    deferred), ``hold`` (does not end)"""
    goal: int = 0
    """Runs after which to stop, if not all jobs are to run."""
    slots: int = 100
    pace: float = 0.0
    """Jobs a second, when paced."""
    begin: str = ""
    """A file: its appearing lets all begin that share."""
    warm: bool = False
    """Defer one more job first, numbered -1, which is not measured."""
    server: int = 0
    """Its process id."""
    patience: float = 60.0
    options: dict[str, Any] = field(default_factory=dict)
    """What only this program understands."""

    def content(self) -> str:
        """What a job of this kind carries."""
        if self.kind == "stamp":
            return str(time.monotonic())
        return "x" * 10_240 if self.kind == "payload" else ""

    def calls(self) -> Iterator[Call]:
        """The arguments of each job, made when they are asked for."""
        return ((number, self.content()) for number in range(self.first, self.first + self.jobs))


class Meter:
    """Wall clock, CPU of this process and its children, CPU of the server, from now until it is read."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._cpu, self._server_cpu, self._began = cpu(), cpu_of(server), time.perf_counter()

    def read(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._began
        return {"seconds": seconds, "cpu": cpu() - self._cpu, "server_cpu": cpu_of(self._server) - self._server_cpu}


class Ledger:
    """Which jobs ran, and how long it took from the first one's start to the last one's."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.runs = array("q")
        self.latencies: list[float] = []
        self._goal = order.goal or order.jobs
        self._memory = {"early_rss": 0.0, "rss": 0.0}
        self._meter = Meter(order.server)
        self._figures: dict[str, float] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def ran(self, number: int, content: str) -> None:
        """A job runs. May be called in any thread."""
        if content and self.order.kind == "stamp":
            self.latencies.append(time.monotonic() - float(content))
        with self._lock:
            runs = self.runs
            runs.append(number)
            count = len(runs)
        if count == 1:
            self._meter = Meter(self.order.server)
            print("first", flush=True)
        if count == self._goal // 10:
            self._memory["early_rss"] = self._resident()
        if count == self._goal:
            self._figures = self._meter.read()
            self._memory["rss"] = self._resident()
            self._over.set()

    def _resident(self) -> float:
        """MiB, without the list of what ran: of a million jobs it has eight."""
        return rss() - self.runs.itemsize * len(self.runs) / 2**20

    def handler(self) -> Callable[[int, str], Coroutine[Any, Any, None]]:
        """What runs as a job in an event loop."""
        kind, ran = self.order.kind, self.ran

        async def noop(number: int, content: str) -> None:
            ran(number, content)

        async def nap(number: int, content: str) -> None:
            await asyncio.sleep(0.01)
            ran(number, content)

        async def cpu_job(number: int, content: str) -> None:
            burn()
            ran(number, content)

        async def hold(number: int, content: str) -> None:
            ran(number, content)
            await asyncio.Event().wait()

        return {"nap": nap, "cpu": cpu_job, "hold": hold}.get(kind, noop)

    def blocking_handler(self) -> Callable[[int, str], None]:
        """What runs as a job in a thread."""
        kind, ran = self.order.kind, self.ran

        def job(number: int, content: str) -> None:
            if kind == "nap":
                time.sleep(0.01)
            elif kind == "cpu":
                burn()
            ran(number, content)

        return job

    def _watch(self) -> None:
        complete = self._over.wait(self.order.patience)
        time.sleep(SETTLING)
        counts = Counter(self.runs)
        numbers = range(self.order.first, self.order.first + self.order.jobs)
        answer = {
            **(self._figures or self._meter.read()),
            **self._memory,
            "lost": 0 if self.order.goal else sum(number not in counts for number in numbers),
            "duplicated": sum(count - 1 for count in counts.values()),
            "unexplained": sum(number not in numbers for number in counts),
            "complete": complete,
            "latencies": self.latencies,
        }
        done(answer)


def serve(packages: str, roles: dict[str, Callable[[Order], Any]]) -> None:
    """Carry out the order of the command line; ``packages`` are those whose versions matter."""
    order = Order(**json.loads(sys.argv[1]))
    if order.role == "versions":
        done({"versions": {name: version(name) for name in packages.split()}})
    run = roles.get(order.role)
    if run is None:
        done({"missing": f"no {order.role}"})
        return
    try:
        if inspect.iscoroutinefunction(run):
            import uvloop

            uvloop.run(run(order))
        else:
            run(order)
    except BaseException:  # noqa: BLE001 - whatever it was, it is told, and no thread of a library keeps us
        traceback.print_exc()
    else:
        if order.role == "setup":
            done({})
        print("it ended before its work was done", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


def done(answer: dict[str, Any]) -> None:
    """Say this, and end at once: nothing that a library does at its end is measured or waited for."""
    print(json.dumps(answer), flush=True)
    os._exit(0)


async def send(
    order: Order, one: Callable[[int, str], Awaitable[Any]], bulk: Callable[[Sequence[Call]], Awaitable[Any]] | None
) -> None:
    """Defer the ordered jobs in the ordered way, and say what it took."""
    if order.warm:
        await one(-1, order.content())
    calls = order.calls()
    meter = Meter(order.server)
    if order.how == "one":
        for number, content in calls:
            await one(number, content)
    elif order.how == "flight":

        async def lane() -> None:
            for number, content in calls:
                await one(number, content)

        await asyncio.gather(*[lane() for _ in range(FLIGHT)])
    elif order.how == "paced":
        await paced(order, one)
    elif bulk is None:
        done({"missing": "it has no bulk call"})
        return
    else:
        for part in parts(calls):
            await bulk(part)
    done(meter.read())


async def paced(order: Order, one: Callable[[int, str], Awaitable[Any]]) -> None:
    """A job each 1/pace seconds, whether the last one was answered or not."""
    loop, under_way = asyncio.get_running_loop(), set[asyncio.Task[Any]]()
    began = loop.time()
    for number in range(order.jobs):
        ahead = began + number / order.pace - loop.time()
        if ahead > 0:
            await asyncio.sleep(ahead)
        elif number % 20 == 0:
            await asyncio.sleep(0)
        task = asyncio.ensure_future(one(order.first + number, order.content()))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        await asyncio.gather(*under_way)


def send_blocking(
    order: Order, one: Callable[[int, str], Any], bulk: Callable[[Sequence[Call]], Any] | None = None
) -> None:
    """As :func:`send`, for a library that blocks."""
    if order.warm:
        one(-1, order.content())
    calls, lock = order.calls(), threading.Lock()
    meter = Meter(order.server)
    if order.how == "one":
        for number, content in calls:
            one(number, content)
    elif order.how == "flight":

        def lane() -> None:
            while True:
                with lock:
                    call = next(calls, None)
                if call is None:
                    return
                one(*call)

        with ThreadPoolExecutor(THREADS) as threads:
            for ended in [threads.submit(lane) for _ in range(THREADS)]:
                ended.result()
    elif order.how == "paced":
        began = time.monotonic()
        for number in range(order.jobs):
            time.sleep(max(0.0, began + number / order.pace - time.monotonic()))
            one(order.first + number, order.content())
    elif bulk is None:
        done({"missing": "it has no bulk call"})
    else:
        for part in parts(calls):
            bulk(part)
    done(meter.read())


def wait_for(file: Path) -> None:
    """Say that this process is there, and return when the others are, too."""
    print("first", flush=True)
    while not file.exists():
        time.sleep(0.001)


async def together(order: Order, work: Callable[[Callable[[int, str], Coroutine[Any, Any, None]]], Any]) -> None:
    """Work beside other processes, from one moment until nothing is left, and say when and what it took."""
    numbers: list[int] = []
    moments = array("d")

    async def job(number: int, content: str) -> None:
        numbers.append(number)
        moments.append(time.monotonic())
        if order.kind == "cpu":
            burn()

    wait_for(Path(order.begin))
    meter = Meter(order.server)
    await work(job)
    done({"numbers": numbers, "moments": [*moments[:1], *moments[-1:]], "cpu": meter.read()["cpu"]})


def parts(calls: Iterator[Call]) -> Iterator[list[Call]]:
    """A thousand at a time."""
    while part := [call for _, call in zip(range(BULK), calls, strict=False)]:
        yield part


def burn() -> int:
    """About a millisecond of pure Python."""
    return sum(number * number for number in range(12_000))


def cpu() -> float:
    """CPU seconds of this process and of its ended children."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def cpu_of(pid: int) -> float:
    """CPU seconds of a process, its living children and its ended ones; 0 without /proc."""
    if not pid or not Path("/proc").is_dir():
        return 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    children = [
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    ]
    total = 0.0
    for one in [pid, *children]:
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(word) for word in (fields[11:15] if one == pid else fields[11:13])) / ticks
    return total


def rss() -> float:
    """MiB of this process and its children."""
    pids = [
        os.getpid(),
        *(int(child) for path in Path("/proc/self/task").glob("*/children") for child in path.read_text().split()),
    ]
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in pids) / 2**20
