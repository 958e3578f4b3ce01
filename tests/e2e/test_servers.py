"""Servers die, hang and forget while a worker process and a producer go on, and no promise is broken."""

import random
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import asyncpg
import pytest

from taskq.testing.history import Killed, Settled, Started
from tests.e2e.harness import PATIENCE, Client, Crew, Fleet, client
from tests.servers import postgres as postgresql
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.tenants import queue_on

Rounds = Callable[[int, int], int]
End = Callable[[Process], None]

SEED = 21
LEASE = 1.0
BACKLOG = 200
"""Jobs that are queued when a fault begins: so many, that most of them are still waiting then."""

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(3600)]


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
    """One worker process that is never started again, and a producer."""

    def __init__(self, fleet: Fleet, customer: Client, producer: Producer) -> None:
        self.fleet = fleet
        self.customer = customer
        self.producer = producer
        self._faults = 0

    async def fill(self) -> None:
        """Let jobs wait."""
        assert await self.customer.defer(self.customer.calls("work", [[0.05] for _ in range(BACKLOG)]))

    async def fault(self, what: str) -> None:
        """Fill the queue, and write down what happens next: a delivery that was not answered is known to nobody."""
        await self.fill()
        self._faults += 1
        self.fleet.journal.write(Killed(what, f"{what}-{self._faults}"))

    async def flows(self, runs: int) -> None:
        """Wait until the producer was answered and so many more runs have begun."""
        await self.producer.is_answered(2)
        await self.fleet.started(self.fleet.count(Started) + runs)


@asynccontextmanager
async def load(url: str, directory: Path) -> AsyncGenerator[Load]:
    """Begins when jobs flow. At the end they flow still, all are done, and every promise was kept."""
    with Fleet(directory, Crew(url=url, workers=1, slots=20, lease=LEASE)) as fleet:
        fleet.revive()
        async with client(fleet) as customer:
            producer = Producer(customer)
            async with anyio.create_task_group() as group:
                group.start_soon(producer.run)
                loaded = Load(fleet, customer, producer)
                await loaded.flows(20)
                yield loaded
                await loaded.flows(50)
                producer.stop()
            await customer.drained()
        verdict = fleet.judge()
        assert fleet.alive(0)
    assert verdict.holds, str(verdict)
    assert verdict.counts["acknowledged"] <= verdict.counts["completed"]
    assert verdict.counts["set aside"] == 0


def runs_of(*jobs: str) -> Callable[[Started], bool]:
    """The beginnings of their runs."""
    return lambda run: run.job in jobs


def refusal(told: Settled) -> bool:
    """The lease that a worker wanted to end was not its own any more."""
    return not told.accepted


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Process]:
    """A server that the test may end."""
    (tmp_path / "redis").mkdir()
    with valkey.single(tmp_path / "redis", aof="always") as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Process]:
    with postgresql.postgres() as server:
        yield server


def stop_at_once(server: Process) -> None:
    """The shutdown from which PostgreSQL recovers at its next start."""
    server.stop(postgresql.IMMEDIATE)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        pytest.param("own_redis", Process.kill, id="redis-killed"),
        pytest.param("own_postgres", Process.kill, id="postgres-killed"),
        pytest.param("own_postgres", Process.stop, id="postgres-fast"),
        pytest.param("own_postgres", stop_at_once, id="postgres-immediate"),
    ],
)
async def test_work_goes_on_when_a_server_that_ended_is_back(
    name: str, end: End, request: pytest.FixtureRequest, tmp_path: Path, rounds: Rounds
) -> None:
    server: Process = request.getfixturevalue(name)
    async with load(queue_on(server), tmp_path) as loaded:
        for _ in range(rounds(2, 30)):
            await loaded.fault("restart")
            end(server)
            await loaded.producer.goes_unanswered(3)
            server.start()
            await loaded.flows(20)


@pytest.mark.parametrize(
    ("name", "patience"),
    [
        pytest.param("own_redis", f"patience={LEASE}", id="redis"),
        pytest.param("own_postgres", f"command_timeout={LEASE}&connect_timeout={LEASE}", id="postgres"),
    ],
)
async def test_work_goes_on_when_a_server_that_hung_for_longer_than_a_lease_answers_again(
    name: str, patience: str, request: pytest.FixtureRequest, tmp_path: Path, rounds: Rounds
) -> None:
    server: Process = request.getfixturevalue(name)
    # Each would outlast its pause, if its worker did not end it when the lease could not be extended.
    long: list[str] = []
    async with load(f"{queue_on(server)}&{patience}", tmp_path) as loaded:
        for _ in range(rounds(1, 10)):
            (call,) = loaded.customer.calls("work", [[4 * LEASE]])
            long.append(call.job.id)
            assert await loaded.customer.defer([call])
            await loaded.fleet.reached(1, Started, runs_of(call.job.id))
            await loaded.fault("pause")
            server.pause()
            try:
                await loaded.producer.goes_unanswered(2)
            finally:
                server.resume()
            await loaded.flows(20)
    assert loaded.fleet.count(Started, runs_of(*long)) >= 2 * len(long)


async def test_work_goes_on_when_redis_forgets_its_scripts(redis: Process, tmp_path: Path, rounds: Rounds) -> None:
    async with load(queue_on(redis), tmp_path) as loaded:
        for _ in range(rounds(5, 50)):
            await loaded.fill()
            valkey.ask(redis, "SCRIPT FLUSH")
            await loaded.flows(5)
        assert not loaded.producer.unanswered


async def test_work_goes_on_when_postgres_ends_all_connections_again_and_again(
    postgres: Process, tmp_path: Path, rounds: Rounds
) -> None:
    async with load(queue_on(postgres), tmp_path) as loaded:
        for _ in range(rounds(5, 50)):
            await loaded.fault("connections")
            assert await end_connections(postgres)
            await loaded.flows(5)


async def end_connections(server: Process) -> int:
    """Of all clients; how many there were."""
    connection = await asyncpg.connect(server.url)
    try:
        ended: int = await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return ended
    finally:
        await connection.close()


# Not on SQLite: a process that stops in the middle of a write holds the file's lock, and no other one can go on.
@pytest.mark.parametrize("name", ["redis", "postgres"])
async def test_a_worker_that_was_stopped_for_longer_than_its_lease_settles_nothing_of_others_and_works_on(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, rounds: Rounds
) -> None:
    with Fleet(tmp_path, Crew(url=queue_on(request.getfixturevalue(name)), workers=2, lease=LEASE)) as fleet:
        fleet.start(0)
        async with client(fleet) as customer:
            for _ in range(rounds(1, 20)):
                # It has told its journal of the settlement, and will tell the broker when it goes on.
                fleet.order(0, "settling", 3, signal.SIGSTOP)
                await customer.defer(customer.calls("work", [[0.1] for _ in range(50)]))
                await fleet.stopped(0)
                fleet.start(1)
                await customer.drained()
                fleet.terminate(1)
                assert await fleet.ended(1) == 0
                refused = fleet.count(Settled, refusal)
                fleet.go_on(0)
                await fleet.reached(refused + 1, Settled, refusal)
                await customer.defer(customer.calls("work", [[0.01] for _ in range(10)]))
                await customer.drained()
        verdict = fleet.judge()
        assert fleet.alive(0)
    assert verdict.holds, str(verdict)
    assert set(verdict.causes) == {"lease over"}
    assert verdict.counts["completed"] == rounds(1, 20) * 60
