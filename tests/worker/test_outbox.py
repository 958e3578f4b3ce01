"""Deferring in a transaction of a database that is not the broker: committed jobs run once, others never."""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import anyio
import asyncpg
import pytest
from msgspec.structs import replace

from taskq import App, current
from taskq.broker import Broker, Traits
from taskq.connect import connect
from taskq.errors import BrokerError, ConfigError, SchemaOutdated
from taskq.events import JobFinished
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement
from taskq.outbox import OUTBOX, Relay
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey as valkey
from tests.servers.process import Process
from tests.servers.tenants import queue_on
from tests.worker.moves import SOON, heard, wait_until
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@pytest.fixture(params=["memory", "valkey"])
def url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else queue_on(request.getfixturevalue("valkey"))


@pytest.fixture
def orders(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'orders.db'}"


def opened(orders: str) -> sqlite3.Connection:
    return sqlite3.connect(orders.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)


async def test_what_is_committed_runs_and_what_is_rolled_back_never_does(url: str, orders: str) -> None:
    app = App(url, outbox=orders)
    ran: list[int] = []

    @app.task(delay=0.01)
    async def note(n: int) -> None:
        ran.append(n)

    async with app, app.working():
        with closing(opened(orders)) as connection:
            for n in range(20):
                connection.execute("BEGIN IMMEDIATE")
                handle = await note.options(tx=connection).defer(n)
                await app.defer_many(note.options(tx=connection).call(m) for m in (100 + n, 200 + n))
                assert handle.added
                connection.execute("COMMIT" if n % 2 else "ROLLBACK")
        await wait_until(lambda: len(ran) >= 30)
        assert sorted(ran) == [*range(1, 20, 2), *range(101, 120, 2), *range(201, 220, 2)]
        # What takes part in no transaction does not go that way.
        await note.defer(1000)
        await wait_until(lambda: 1000 in ran)


async def test_asyncpg_decides_over_jobs_on_redis(valkey: Process, postgres: Process) -> None:
    app = App(queue_on(valkey), outbox=queue_on(postgres))
    ran: list[int] = []

    @app.task
    async def note(n: int) -> None:
        ran.append(n)

    async with app, app.working():
        connection = await asyncpg.connect(postgres.url)
        for n in range(6):
            transaction = connection.transaction()
            await transaction.start()
            await note.options(tx=connection).defer(n)
            await (transaction.commit() if n % 2 else transaction.rollback())
        await connection.close()
        await wait_until(lambda: len(ran) >= 3)
    assert sorted(ran) == [1, 3, 5]


class Died(Exception):
    """The relay's process is gone."""


class Dying:
    """A broker in the hands of somebody who dies before or after a call."""

    def __init__(self, broker: Broker, verb: str, when: str) -> None:
        self._broker = broker
        self._dies = (verb, when)

    @property
    def traits(self) -> Traits:
        return self._broker.traits

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        return await self._call("enqueue", lambda: self._broker.enqueue(jobs))

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> Sequence[Delivery]:
        return await self._call("fetch", lambda: self._broker.fetch(queues, limit, lease=lease, wait=wait))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return await self._call("settle", lambda: self._broker.settle(settlements))

    async def extend(self, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await self._broker.extend(receipts, lease)

    async def _call(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        if self._dies == (verb, "before"):
            raise Died
        answer = await call()
        if self._dies == (verb, "after"):
            raise Died
        return answer


@pytest.mark.parametrize(
    ("verb", "when", "ends"),
    [
        ("fetch", "after", ["returned"]),
        ("enqueue", "before", ["returned"]),
        ("enqueue", "after", ["returned", "discarded"]),
        ("settle", "before", ["returned", "discarded"]),
        ("settle", "after", ["returned"]),
    ],
)
async def test_a_relay_that_dies_loses_and_doubles_nothing(
    url: str, orders: str, verb: str, when: str, ends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskq.outbox.LEASE", 0.2)
    app = App(url, outbox=orders)
    ran: list[str] = []

    @app.task
    async def note() -> None:
        ran.append(current().id)

    finished = heard(app, JobFinished)
    async with app, connect(orders) as outbox:
        with closing(opened(orders)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            job = await note.options(tx=connection).defer()
            connection.execute("COMMIT")
        target = replace(app.backend, broker=Dying(app.backend.broker, verb, when))
        with pytest.raises(Died):
            await Relay(Dying(outbox.broker, verb, when), target).run()
        # A worker that ends by itself relays nothing: what was enqueued has ended when the next relay comes.
        await app.run_worker(until="idle")
        async with app.working():
            await wait_until(lambda: len(finished) == len(ends))
            assert outbox.admin is not None
            with anyio.fail_after(SOON):
                while await outbox.admin.stats():  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(0.02)
    assert ran == [job.id]
    assert [event.end for event in finished] == ends


async def test_what_the_broker_refuses_is_a_dead_letter_of_the_outbox(orders: str) -> None:
    app = App("memory://", outbox=orders)

    @app.task(unique="one", on_conflict="raise", delay=3600)
    async def note() -> None: ...

    async with app, app.working(), connect(orders) as outbox:
        assert outbox.admin is not None
        with closing(opened(orders)) as connection:
            for _ in range(2):
                connection.execute("BEGIN IMMEDIATE")
                await note.options(tx=connection).defer()
                connection.execute("COMMIT")
        with anyio.fail_after(SOON):
            while not (await outbox.admin.stats([OUTBOX]))[0].dead:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.02)
        (dead,) = await outbox.admin.list_jobs(OUTBOX, "dead", after=None, limit=9)
        assert b"Conflict" in (dead.outcome or b"")


async def test_an_outbox_that_cannot_be_one_is_refused_when_the_app_opens(
    orders: str, postgres: Process, tmp_path: Path
) -> None:
    with pytest.raises(SchemaOutdated, match="migrate"):
        async with App("memory://", outbox=f"{postgres.url}?schema=nothing_here"):
            pass
    with pytest.raises(BrokerError, match="directory"):
        async with App("memory://", outbox=f"sqlite:///{tmp_path}/none/orders.db"):
            pass
    app = App("memory://", outbox=orders)

    @app.task(transaction=True)
    async def note() -> None: ...

    with pytest.raises(ConfigError, match="transaction=True"):
        async with app:
            pass
    with pytest.raises(ConfigError, match="TASKQ_OUTBOX"):
        await App("memory://").relay()


async def test_the_relay_waits_for_a_broker_that_is_away(
    tap: Tap, orders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskq.outbox.LEASE", 0.2)
    app = App("memory://", outbox=orders)
    ran: list[str] = []

    @app.task
    async def note() -> None:
        ran.append(current().id)

    async with app, app.working():
        tap.broken = "before"
        with closing(opened(orders)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            await note.options(tx=connection).defer()
            connection.execute("COMMIT")
        await wait_until(lambda: tap.tried > 3)
        tap.broken = "no"
        await wait_until(lambda: ran)


async def test_the_relay_goes_on_while_one_server_of_the_broker_is_away(tap: Tap, orders: str) -> None:
    app = App("memory://", outbox=orders)
    ran: set[str] = set()

    async def note() -> None:
        ran.add(current().queue)

    tasks = [app.task(queue=queue, name=queue)(note) for queue in ("away", "here")]
    async with app, app.working():
        tap.away = {"away"}
        with closing(opened(orders)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for task in tasks:
                await task.options(tx=connection).defer()
            connection.execute("COMMIT")
        await wait_until(lambda: ran == {"here"})
        tap.away = set()
        await wait_until(lambda: ran == {"here", "away"})
