"""Controls the kill tests: starts worker processes, orders them to die, starts them again, and is their only client."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import msgspec
from msgspec import Struct

from taskq import App
from taskq.call import Call
from taskq.errors import BrokerError
from taskq.testing.history import Answered, Ended, Happened, Invoked, Journal, Killed, Line, Started, read_all
from taskq.testing.verdict import Verdict, check
from tests.e2e.worker import Declare, Point, declare
from tests.servers.process import state

H = TypeVar("H", bound=Happened)

QUEUE = "work"
PATIENCE = 60.0
"""Seconds that anything may take before a test gives up."""
LONG = "TASKQ_TEST_LONG" in os.environ
"""Whether tests grow to their full size. Only then is anything measured in seconds, on a machine with time for it."""


def backend_of(url: str) -> str:
    """Its name in reports."""
    scheme = url.partition(":")[0]
    return "redis-cluster" if scheme == "redis+cluster" else scheme.partition("+")[0]


class Crew(Struct, frozen=True, kw_only=True):
    """How the workers of a test work."""

    url: str
    detour: str = ""
    """Another way to the same server, which every other worker takes."""
    workers: int = 4
    slots: int = 8
    lease: float = 2.0
    grace: float = 1.0
    program: str = "tests.e2e.worker"
    """The module that a worker runs."""


class Departure(Struct, frozen=True, kw_only=True):
    """How a process ended that was asked to."""

    code: int
    seconds: float
    """From SIGTERM to its exit."""
    starved: float
    """Seconds of these for which it waited for a core; 0.0 where the system does not tell."""


class Reader:
    """The journals of a directory, each line read once: asked again and again, they would take all of a core."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._decoder = msgspec.json.Decoder(Line)
        self._read: dict[Path, int] = {}
        self._happened: list[Happened] = []

    def so_far(self) -> Sequence[Happened]:
        """What has happened in all processes."""
        for path in self._directory.glob("*.journal"):
            with path.open("rb") as journal:
                journal.seek(self._read.get(path, 0))
                whole, end, _ = journal.read().rpartition(b"\n")
            self._read[path] = self._read.get(path, 0) + len(whole) + len(end)
            self._happened += [self._decoder.decode(line).what for line in whole.splitlines()]
        return self._happened


class Fleet:
    """Worker processes in numbered places. Only :meth:`revive` replaces the dead; none is left behind."""

    def __init__(self, directory: Path, crew: Crew) -> None:
        self.crew = crew
        self.directory = directory
        self.domain = directory / "domain.db"
        """Where the application keeps its own rows."""
        self.release = directory / "release"
        """The task ``released`` runs until this file is there."""
        self.journal = Journal(directory / "controller.journal")
        self._happened = Reader(directory)
        self._started = 0
        self._members: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _, process in self._members.values():
            process.kill()
            process.wait()
            _close(process)
        self.journal.close()
        said = (self.directory / "workers.log").read_text(errors="replace") if self._started else ""
        if said:
            print(said)  # noqa: T201 pytest shows it with a failure

    def start(self, place: int) -> None:
        """A new process in this place; the one before has ended."""
        if place in self._members:
            _close(self._members[place][1])
        self._started += 1
        name = f"worker-{place}.{self._started}"
        url = self.crew.detour if self.crew.detour and place % 2 else self.crew.url
        settings = {"URL": url, "SLOTS": self.crew.slots, "LEASE": self.crew.lease, "GRACE": self.crew.grace}
        environment = {f"TASKQ_{key}": str(value) for key, value in settings.items()}
        with (self.directory / "workers.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", self.crew.program, self.directory / f"{name}.journal", self.domain],
                cwd=self.directory,
                env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._members[place] = (name, process)

    def revive(self) -> int:
        """Start whoever is missing, in the manner of a supervisor; how many there were."""
        missing = [place for place in range(self.crew.workers) if not self.alive(place)]
        for place in missing:
            self.start(place)
        return len(missing)

    def alive(self, place: int) -> bool:
        """Whether there is a running process in this place."""
        return place in self._members and self._members[place][1].poll() is None

    def busy(self) -> list[int]:
        """The places in which a job runs now."""
        journals = read_all(self.directory)
        runs = {name: [isinstance(line.what, Started) - isinstance(line.what, Ended) for line in lines]
                for name, lines in journals.items()}  # fmt: skip
        return [place for place, (name, _) in self._members.items() if sum(runs.get(name, [])) > 0]

    def order(self, place: int, point: Point, passing: int, what: signal.Signals = signal.SIGKILL) -> None:
        """Let the process in this place die at a point, or stop with SIGSTOP; a later order replaces this one."""
        stdin = self._members[place][1].stdin
        assert stdin is not None
        # It may have died before.
        with suppress(BrokenPipeError):
            stdin.write(f"{what.name} {point} {passing}\n".encode())
            stdin.flush()

    def kill(self, place: int, point: str = "at random") -> None:
        """SIGKILL, now; gone when this returns."""
        name, process = self._members[place]
        if process.poll() is None:
            self.journal.write(Killed(point, name))
            process.kill()
        process.wait()

    def terminate(self, place: int) -> None:
        """SIGTERM: it drains, and ends when it has."""
        self._members[place][1].send_signal(signal.SIGTERM)

    async def leaves(self, place: int) -> Departure:
        """SIGTERM, and wait until it has ended."""
        process, asked = self._members[place][1], time.monotonic()
        before = starved = _starved(process.pid)
        self.terminate(place)
        with anyio.fail_after(PATIENCE):
            while (code := process.poll()) is None:
                starved = _starved(process.pid) or starved
                await anyio.sleep(0.01)
        return Departure(code=code, seconds=time.monotonic() - asked, starved=starved - before)

    def starved(self) -> Mapping[int, float]:
        """For how many seconds this process and each worker has been ready to run so far, and had no core."""
        return {pid: _starved(pid) for pid in (os.getpid(), *(process.pid for _, process in self._members.values()))}

    async def stopped(self, place: int) -> None:
        """Wait until the process in this place has been stopped."""
        with anyio.fail_after(PATIENCE):
            while state(self._members[place][1].pid) != "T":  # noqa: ASYNC110 it cannot tell
                await anyio.sleep(0.02)

    def go_on(self, place: int) -> None:
        """SIGCONT to a process that was stopped."""
        self._members[place][1].send_signal(signal.SIGCONT)

    async def ended(self, place: int) -> int:
        """Wait for the process in this place to end by itself, and answer its exit code."""
        process = self._members[place][1]
        with anyio.fail_after(PATIENCE):
            while (code := process.poll()) is None:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        return code

    def count(self, kind: type[H], which: Callable[[H], bool] = lambda _: True) -> int:
        """How often something has happened so far, in all processes."""
        return sum(isinstance(what, kind) and which(what) for what in self._happened.so_far())

    async def reached(self, times: int, kind: type[H], which: Callable[[H], bool] = lambda _: True) -> None:
        """Wait until something has happened so often, in all processes together."""
        with anyio.fail_after(PATIENCE):
            while self.count(kind, which) < times:  # noqa: ASYNC110 another process's doings can only be asked after
                await anyio.sleep(0.05)

    async def started(self, runs: int) -> None:
        """Wait until so many runs have begun."""
        await self.reached(runs, Started)

    def judge(self, exact_attempts: bool = True) -> Verdict:
        """What all journals show."""
        return check(
            read_all(self.directory),
            lease=self.crew.lease,
            patience=5.0 if LONG else PATIENCE,
            exact_attempts=exact_attempts,
        )


def _starved(pid: int) -> float:
    """Seconds for which the main thread of a process has been ready to run and had no core, as Linux tells."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        # An order that it did not live to read.
        with suppress(BrokenPipeError):
            process.stdin.close()


class Client:
    """Enqueues, writes down what it was told, and looks on."""

    def __init__(self, app: App, journal: Journal) -> None:
        self.app = app
        self.overdue = 0.0
        """For how many seconds a job was at most shown as leased although its lease was over."""
        self._journal = journal

    def calls(self, task: str, arguments: Sequence[Sequence[Any]]) -> list[Call[Any]]:
        """A call of the task for each tuple of arguments."""
        found = self.app.find_task(task)
        return [found.call(*each) for each in arguments]

    async def defer(self, calls: Sequence[Call[Any]]) -> bool:
        """Enqueue them, and say whether there was an answer; a call that raises leaves the rest unknown."""
        left = [call.job.id for call in calls]
        self._journal.write(Invoked(left))
        try:
            async for answer in self.app.defer_each(calls):
                told = left.pop(0)
                self._journal.write(Answered([told], "ok" if answer.error is None else "fail"))
        except BrokerError:
            self._journal.write(Answered(left, "unknown"))
            return False
        return True

    async def drained(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Return when no live job is left in the queue; ``meanwhile`` is called again and again."""
        admin = self.app.admin
        with anyio.fail_after(PATIENCE):
            while any(queue.later or queue.ready or queue.leased for queue in await admin.stats([QUEUE])):
                for record in await admin.list_jobs(QUEUE, "leased", after=None, limit=100):
                    self.overdue = max(self.overdue, time.time() - record.due)
                meanwhile()
                await anyio.sleep(0.05)


@asynccontextmanager
async def client(fleet: Fleet, declared: Declare = declare) -> AsyncGenerator[Client]:
    """The client of a fleet, with the fleet's tasks."""
    journal = Journal(fleet.directory / "client.journal")
    app = App(fleet.crew.url)
    declared(app, journal, lambda _: None, fleet.domain)
    async with app:
        yield Client(app, journal)
    journal.close()
