"""Worker processes that are never started again and a producer that never stops: what servers are broken under."""

import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import anyio

from taskq.testing.history import Killed, Started
from taskq.testing.verdict import Verdict
from tests.e2e.harness import LONG, PATIENCE, Client, Crew, Fleet, client

SEED = 21
LEASE = 1.0
RESUMES = 5.0
"""Seconds in which work goes on once it can; said at full size only, on a machine with time for it."""
BACKLOG = 200
"""Jobs that are queued when a fault begins: so many, that most of them are still waiting then."""


class Producer:
    """Enqueues a few jobs again and again, whether or not it is answered."""

    def __init__(self, customer: Client) -> None:
        self.unanswered = 0
        self._customer = customer
        self._chance = random.Random(SEED)
        self._answered = 0
        self._stopped = False

    async def run(self) -> None:
        """Enqueue until told to stop."""
        while not self._stopped:
            calls = self._customer.calls("work", [[self._chance.uniform(0.02, 0.1)] for _ in range(5)])
            if await self._customer.defer(calls):
                self._answered += 1
            else:
                self.unanswered += 1
            await anyio.sleep(0.05)

    def stop(self) -> None:
        """The call under way is the last."""
        self._stopped = True

    async def goes_unanswered(self, times: int) -> None:
        """Wait until so many more calls have raised."""
        await _reached(lambda: self.unanswered, self.unanswered + times)

    async def is_answered(self, times: int) -> None:
        """Wait until so many more calls were answered."""
        await _reached(lambda: self._answered, self._answered + times)


async def _reached(count: Callable[[], int], wanted: int) -> None:
    with anyio.fail_after(PATIENCE):
        while count() < wanted:  # noqa: ASYNC110 it does not tell
            await anyio.sleep(0.02)


class Load:
    """Worker processes that are never started again, and a producer."""

    def __init__(self, fleet: Fleet, customer: Client, producer: Producer) -> None:
        self.fleet = fleet
        self.customer = customer
        self.producer = producer
        self.verdict: Verdict | None = None
        """How it was judged, once it has ended."""
        self.unpromised: frozenset[str] = frozenset()
        """Which of the promises the server, as it is configured, does not make."""
        self._faults = self._told = 0
        self._slowest = (0.0, 0.0)
        """Seconds until work went on, without those in which it waited for a core, and with them."""

    async def fill(self) -> None:
        """Let jobs wait."""
        assert await self.customer.defer(self.customer.calls("work", [[0.05] for _ in range(BACKLOG)]))

    async def brace(self) -> None:
        """Fill the queue for a fault that costs no answer to a delivery."""
        await self.fill()
        self._faults += 1

    async def fault(self, what: str) -> None:
        """Fill the queue, and write down what happens next."""
        await self.brace()
        self.tell(what)

    def tell(self, what: str) -> None:
        """Write down what happens next: a delivery that was not answered is known to nobody."""
        self._told += 1
        self.fleet.journal.write(Killed(what, f"{what}-{self._told}"))

    @property
    def suffered(self) -> set[str]:
        """The jobs that suffered from what was not promised."""
        assert self.verdict is not None
        found = (tale for name in self.unpromised for tale in self.verdict.offences[name])
        return {re.split(r"\W", tale, maxsplit=1)[0] for tale in found}

    @property
    def broken(self) -> int:
        """How often a promise was."""
        assert self.verdict is not None
        return sum(len(found) for name, found in self.verdict.offences.items() if name not in self.unpromised)

    def told(self) -> Mapping[str, object]:
        """What it has come to."""
        assert self.verdict is not None
        counts, offences = self.verdict.counts, self.verdict.offences
        calm, took = self._slowest
        return {
            "faults": self._faults,
            "work went on within, s": f"{calm:.1f} ({took:.1f})" if took else "–",
            "enqueues without an answer": self.producer.unanswered,
            "jobs": counts["acknowledged"],
            "lost": len(offences["lost"]),
            "delivered again": sum(self.verdict.causes.values()),
            "promises broken": self.broken,
        }

    async def resumes(self, runs: int, *, answered: bool = True) -> None:
        """The fault is over: work goes on soon, and so many runs begin; the producer may have no answer yet."""
        over, starved = time.monotonic(), self.fleet.starved()
        if answered:
            await self.producer.is_answered(1)
        await self.fleet.started(self.fleet.count(Started) + 1)
        took = time.monotonic() - over
        idle = max(seconds - starved[pid] for pid, seconds in self.fleet.starved().items())
        self._slowest = max(self._slowest, (took - idle, took))
        assert not LONG or took - idle <= RESUMES, f"went on after {took:.1f} s, {idle:.1f} of them without a core"
        await (self.flows(runs) if answered else self.fleet.started(self.fleet.count(Started) + runs))

    async def flows(self, runs: int) -> None:
        """Wait until the producer was answered and so many more runs have begun."""
        await self.producer.is_answered(2)
        await self.fleet.started(self.fleet.count(Started) + runs)


@asynccontextmanager
async def working(url: str, directory: Path, *, workers: int = 1, detour: str = "") -> AsyncGenerator[Load]:
    """Begins when jobs flow. At the end they flow still, all are done, and every promise was kept."""
    with Fleet(directory, Crew(url=url, detour=detour, workers=workers, slots=20, lease=LEASE)) as fleet:
        fleet.revive()
        async with client(fleet) as customer:
            loaded = Load(fleet, customer, Producer(customer))
            async with anyio.create_task_group() as group:
                group.start_soon(loaded.producer.run)
                await loaded.flows(20)
                yield loaded
                await loaded.flows(50)
                loaded.producer.stop()
            await customer.drained()
            loaded.verdict = verdict = fleet.judge()
            assert not loaded.broken, str(verdict)
            assert verdict.counts["set aside"] == 0
        assert all(map(fleet.alive, range(workers)))


class Loading(Protocol):
    """As :func:`working`, and what it has come to is told in the report."""

    def __call__(
        self, url: str, directory: Path, *, workers: int = 1, detour: str = ""
    ) -> AbstractAsyncContextManager[Load]: ...
