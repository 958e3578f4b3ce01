"""Servers die, hang and forget while a worker process and a producer go on, and no promise is broken."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from taskq.testing.history import Settled, Started
from tests.e2e.harness import Crew, Fleet, client
from tests.e2e.load import LEASE, Loading
from tests.servers import postgres as postgresql
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.tenants import queue_on

Rounds = Callable[[int, int], int]
End = Callable[[Process], None]

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(3600)]


def runs_of(*jobs: str) -> Callable[[Started], bool]:
    """The beginnings of their runs."""
    return lambda run: run.job in jobs


def refusal(told: Settled) -> bool:
    """The lease that a worker wanted to end was not its own any more."""
    return not told.accepted


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
    name: str, end: End, request: pytest.FixtureRequest, tmp_path: Path, rounds: Rounds, load: Loading
) -> None:
    server: Process = request.getfixturevalue(name)
    async with load(queue_on(server), tmp_path) as loaded:
        for _ in range(rounds(2, 30)):
            await loaded.fault("restart")
            end(server)
            await loaded.producer.goes_unanswered(3)
            server.start()
            await loaded.resumes(20)


@pytest.mark.parametrize(
    ("name", "patience"),
    [
        pytest.param("own_redis", f"patience={LEASE}", id="redis"),
        pytest.param("own_postgres", f"command_timeout={LEASE}&connect_timeout={LEASE}", id="postgres"),
    ],
)
async def test_work_goes_on_when_a_server_that_hung_for_longer_than_a_lease_answers_again(
    name: str, patience: str, request: pytest.FixtureRequest, tmp_path: Path, rounds: Rounds, load: Loading
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
            await loaded.resumes(20)
    assert loaded.fleet.count(Started, runs_of(*long)) >= 2 * len(long)


async def test_work_goes_on_when_redis_forgets_its_scripts(
    redis: Process, tmp_path: Path, rounds: Rounds, load: Loading
) -> None:
    async with load(queue_on(redis), tmp_path) as loaded:
        for _ in range(rounds(5, 50)):
            await loaded.brace()
            valkey.ask(redis, "SCRIPT FLUSH")
            await loaded.resumes(5)
        assert not loaded.producer.unanswered


async def test_a_full_redis_refuses_jobs_clearly_and_work_on_the_others_goes_on(
    own_redis: Process, tmp_path: Path, rounds: Rounds, load: Loading
) -> None:
    async with load(queue_on(own_redis), tmp_path) as loaded:
        for _ in range(rounds(1, 20)):
            await loaded.brace()
            valkey.ask(own_redis, "CONFIG SET maxmemory 1mb")
            await loaded.producer.goes_unanswered(3)
            # Fetches, extensions and settlements still work, so what is there gets done.
            await loaded.customer.drained()
            valkey.ask(own_redis, "CONFIG SET maxmemory 0")
            await loaded.resumes(20)


async def test_work_goes_on_when_a_script_of_somebody_else_has_kept_redis_busy(
    own_redis: Process, tmp_path: Path, rounds: Rounds, load: Loading
) -> None:
    valkey.ask(own_redis, "CONFIG SET busy-reply-threshold 100")
    async with load(f"{queue_on(own_redis)}&patience={LEASE}", tmp_path) as loaded:
        for _ in range(rounds(1, 20)):
            await loaded.fault("busy")
            with socket.create_connection(("127.0.0.1", own_redis.port)) as other:
                other.sendall(b"*3\r\n$4\r\nEVAL\r\n$17\r\nwhile true do end\r\n$1\r\n0\r\n")
                await loaded.producer.goes_unanswered(3)
                valkey.ask(own_redis, "SCRIPT KILL")
            await loaded.resumes(20)


async def test_work_goes_on_when_postgres_ends_all_connections_again_and_again(
    postgres: Process, tmp_path: Path, rounds: Rounds, load: Loading
) -> None:
    async with load(queue_on(postgres), tmp_path) as loaded:
        for _ in range(rounds(5, 50)):
            await loaded.fault("connections")
            assert await end_connections(postgres)
            await loaded.resumes(5)


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
