"""One worker process of the kill tests: ``python -m tests.e2e.worker JOURNAL DOMAIN``, settings in ``TASKQ_…``.

Its broker passes everything through, writes it down, and sends its own process a signal at a named point when it was
ordered to. An order is a line on stdin: the signal, the point, and at which passing (``SIGKILL mid-run 3``). When stdin
ends, so does it: no worker outlives the test that started it. SIGTERM drains.
"""

import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Literal, get_args
from unittest.mock import patch

import anyio
from msgspec.structs import replace

import taskq.opening
from taskq import App, current
from taskq.broker import Backend, Broker, Extender, Traits
from taskq.companion import Notify
from taskq.config import Settings
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement
from taskq.opening import open_backend
from taskq.testing.history import (
    Asking,
    Effect,
    Ended,
    Extended,
    Fetched,
    Journal,
    Killed,
    Settled,
    Settling,
    Started,
    how,
)
from taskq.worker.worker import Worker

Point = Literal["fetched", "mid-run", "effect done", "settling", "settled"]
POINTS: tuple[Point, ...] = get_args(Point)
"""A delivery has come, nothing has run · a handler runs · it has done its effect · its end is about to be told · and
has been told."""

Reach = Callable[[Point], None]
Declare = Callable[[App, Journal, Reach, Path], None]


class Orders:
    """Where this process is to die, or to stop."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._signal = signal.SIGKILL
        self._point = ""
        self._left = 0

    def take(self) -> None:
        """Read the last order from stdin."""
        said = os.read(sys.stdin.fileno(), 4096).decode()
        if not said:
            os._exit(3)
        name, _, place = said.splitlines()[-1].partition(" ")
        self._point, _, left = place.rpartition(" ")
        self._signal, self._left = signal.Signals[name], int(left)

    def reach(self, point: Point) -> None:
        """Die or stop here, if it is the moment."""
        if point != self._point:
            return
        self._left -= 1
        if self._left <= 0:
            self._point = ""
            if self._signal is signal.SIGKILL:
                self._journal.write(Killed(point))
            os.kill(os.getpid(), self._signal)


class RecordingBroker:
    """Writes down what the worker does with its broker, and passes the points on the way."""

    def __init__(self, inner: Broker, journal: Journal, reach: Reach) -> None:
        self._inner = inner
        self._journal = journal
        self._reach = reach
        self.known: dict[str, tuple[str, int]] = {}
        """Job and fence of each receipt."""
        self._asking = False

    @property
    def traits(self) -> Traits:
        return self._inner.traits

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        return await self._inner.enqueue(jobs)

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        if not self._asking:
            self._asking = True
            self._journal.write(Asking())
        asked = time.monotonic()
        deliveries = await self._inner.fetch(queues, limit, lease=lease, wait=wait)
        if deliveries:
            self.known |= {one.receipt: (one.job.id, one.fence) for one in deliveries}
            self._journal.write(*(Fetched(one.job.id, one.fence, one.attempt, one.losses, asked) for one in deliveries))
            self._reach("fetched")
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        answers = await self.settle_by(settlements, self._inner.settle)
        assert answers is not None
        return answers

    async def settle_by(
        self,
        settlements: Sequence[Settlement],
        settle: Callable[[Sequence[Settlement]], Awaitable[Sequence[bool] | None]],
    ) -> Sequence[bool] | None:
        named = [self.known[one.receipt] for one in settlements]
        self._journal.write(*(Settling(*name, how(one)) for name, one in zip(named, settlements, strict=True)))
        self._reach("settling")
        answers = await settle(settlements)
        if answers is None:
            return None
        self._journal.write(*(Settled(*name, accepted) for name, accepted in zip(named, answers, strict=True)))
        self._reach("settled")
        return answers

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await self._inner.extend(receipts, lease)


class RecordingExtender:
    """Writes down which leases were confirmed."""

    def __init__(self, inner: Extender, journal: Journal, broker: RecordingBroker) -> None:
        self._inner = inner
        self._journal = journal
        self._broker = broker

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        asked = time.monotonic()
        answers = await self._inner.extend(receipts, lease)
        pairs = zip(receipts, answers, strict=True)
        held = [self._broker.known[receipt] for receipt, answer in pairs if answer in (Lease.HELD, Lease.CANCELLED)]
        self._journal.write(Extended(held, asked))
        return answers


Opening = Callable[[Settings, Notify], AbstractAsyncContextManager[Backend]]


def recording(journal: Journal, reach: Reach) -> Opening:
    """``open_backend`` with a broker and extenders that write everything down."""

    @asynccontextmanager
    async def open_and_record(settings: Settings, notify: Notify) -> AsyncGenerator[Backend]:
        async with open_backend(settings, notify) as backend:
            broker = RecordingBroker(backend.broker, journal, reach)

            @asynccontextmanager
            async def extender() -> AsyncGenerator[Extender]:
                async with backend.extender() as inner:
                    yield RecordingExtender(inner, journal, broker)

            async def discard_and_settle(
                key: str, members: Sequence[str], settlements: Sequence[Settlement]
            ) -> Sequence[bool] | None:
                inner = backend.discard_and_settle
                assert inner is not None
                return await broker.settle_by(settlements, lambda all_of_them: inner(key, members, all_of_them))

            at_once = None if backend.discard_and_settle is None else discard_and_settle
            yield replace(backend, broker=broker, extender=extender, discard_and_settle=at_once)

    return open_and_record


@contextmanager
def recorded(journal: Journal) -> Generator[None]:
    """A handler's run, from its first line to its last."""
    name = (current().id, current().fence)
    journal.write(Started(*name))
    returned = False
    try:
        yield
        returned = True
    finally:
        journal.write(Ended(*name, returned=returned))


UNLUCKY = 10_000
"""``max_losses`` of a job whose workers are killed by the test, not by the job."""


def declare(app: App, journal: Journal, reach: Reach, domain: Path) -> None:
    """The tasks of the kill tests; a client declares them, too, and runs none."""

    @app.task(name="work", queue="work", max_losses=UNLUCKY, idempotent=True)
    async def work(seconds: float) -> None:
        """Two waits with a point between them, and an effect at the end."""
        with recorded(journal):
            await anyio.sleep(seconds / 2)
            reach("mid-run")
            await anyio.sleep(seconds / 2)
            journal.write(Effect(current().id, current().fence))
            reach("effect done")

    @app.task(name="released", queue="work", idempotent=True)
    async def released() -> None:
        """Runs until the application says that it may end."""
        with recorded(journal):
            while not domain.with_name("release").exists():  # noqa: ASYNC110 a file can only be asked after
                await anyio.sleep(0.05)

    async def hold() -> None:
        """Runs for ever; a job whose worker died returns at once."""
        with recorded(journal):
            if not current().losses:
                await anyio.sleep_forever()

    app.task(name="hold", queue="work", idempotent=True)(hold)
    app.task(name="hold_at_most_once", queue="work", delivery="at_most_once")(hold)

    @app.task(name="poison", queue="work", idempotent=True)
    async def poison() -> None:
        with recorded(journal):
            journal.write(Killed("poison"))
            os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="healthy", queue="work", idempotent=True)
    async def healthy(seconds: float) -> None:
        with recorded(journal):
            await anyio.sleep(seconds)

    @app.task(name="stubborn", queue="work", idempotent=True)
    async def stubborn(seconds: float, heeds: bool) -> None:
        """Waits to be cancelled, and then takes so many seconds more to heed it, or to return all the same."""
        with recorded(journal):
            if not first_run(domain):
                return
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(seconds)
                if heeds:
                    raise

    @app.task(name="mailing", queue="work", idempotent="guarded")
    async def mailing(recipients: int, seconds: float) -> None:
        """One mail to each recipient, each a line in a log."""
        with domain.with_name("mailed.log").open("a") as log:
            async for recipient in current().iterate(range(recipients), every=1):
                await anyio.sleep(seconds)
                log.write(f"{recipient}\n")
                log.flush()

    @app.task(name="newsletter", queue="work", max_losses=UNLUCKY, idempotent=True)
    async def newsletter(row: int, mails: int) -> None:
        """As it is often written: the row says "sending" until the loop is through."""
        with recorded(journal):
            mark(domain, row, "sending")
            for _ in range(mails):
                await anyio.sleep(0.01)
            mark(domain, row, "sent")


def mark(domain: Path, row: int, status: str) -> None:
    """Write a newsletter's status, in the application's own database."""
    with closing(sqlite3.connect(domain, timeout=30.0)) as connection, connection:
        connection.execute("REPLACE INTO newsletters (id, status) VALUES (?, ?)", (row, status))


def first_run(domain: Path) -> bool:
    """Whether this job has not run before; what is given back counts as neither an attempt nor a loss."""
    try:
        domain.with_name(f"{current().id}.ran").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


async def main(journal: Journal, domain: Path, declared: Declare = declare) -> None:
    """Work until told to stop."""
    loop = asyncio.get_running_loop()
    orders = Orders(journal)
    loop.add_reader(sys.stdin.fileno(), orders.take)
    app = App()
    declared(app, journal, orders.reach, domain)

    def started(worker: Worker) -> None:
        loop.add_signal_handler(signal.SIGTERM, worker.drain)

    with patch.object(taskq.opening, "open_backend", recording(journal, orders.reach)):
        await app.run_worker(started=started)


if __name__ == "__main__":
    asyncio.run(main(Journal(Path(sys.argv[1])), Path(sys.argv[2])))
