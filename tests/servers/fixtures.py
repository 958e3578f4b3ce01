"""Real servers as fixtures: one of each for a whole test process, started when the first test asks for it.

A conftest imports those it wants. Tests share these servers, so they use names of their own in them and leave them
running; a test that kills, pauses or reconfigures a server starts its own with the same functions.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.redis.deployment import strangers
from tests.servers import pgbouncer as bouncers
from tests.servers import postgres as postgresql
from tests.servers import sqs as emulators
from tests.servers import valkey as redis
from tests.servers.process import Process


def where(name: str, found: object) -> object:
    """A server of which not one test is skipped, where it is found at all."""
    return pytest.param(name, marks=pytest.mark.unskipped if found else pytest.mark.skip(f"{name} is not found here"))


@pytest.fixture(scope="session")
def running() -> list[Process]:
    """The shared servers that have been started so far."""
    return []


@pytest.fixture(autouse=True)
def server_logs(running: list[Process]) -> Iterator[None]:
    """What the shared servers print during a test belongs to its output, which pytest shows when the test fails."""
    before = {server: len(server.log()) for server in running}
    yield
    for server in running:
        if said := server.log(since=before.get(server, 0)):
            print(f"--- {server.url}\n{said}")  # noqa: T201 pytest shows it with the failure


def shared_redis(binary: Path | None, tmp: pytest.TempPathFactory, running: list[Process]) -> Iterator[Process]:
    """One server that speaks Redis, among the running ones."""
    if binary is None:
        pytest.skip("this server is not found here")
    with redis.single(tmp.mktemp("redis"), binary=binary) as server:
        running.append(server)
        yield server
        assert not strangers(server)


def shared_postgres(binaries: Path | None, running: list[Process]) -> Iterator[Process]:
    """One PostgreSQL, among the running ones."""
    if binaries is None:
        pytest.skip("this PostgreSQL is not found here")
    with postgresql.postgres(binaries) as server:
        running.append(server)
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory, running: list[Process]) -> Iterator[Process]:
    yield from shared_redis(redis.valkey_binary(), tmp_path_factory, running)


@pytest.fixture(scope="session")
def redis82(tmp_path_factory: pytest.TempPathFactory, running: list[Process]) -> Iterator[Process]:
    yield from shared_redis(redis.redis82_binary(), tmp_path_factory, running)


@pytest.fixture(scope="session")
def redis70(tmp_path_factory: pytest.TempPathFactory, running: list[Process]) -> Iterator[Process]:
    yield from shared_redis(redis.redis70_binary(), tmp_path_factory, running)


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory, running: list[Process]) -> Iterator[list[Process]]:
    """Three masters."""
    with redis.cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        running.extend(nodes)
        yield nodes
        assert not any(map(strangers, nodes))


@pytest.fixture(scope="session")
def postgres(running: list[Process]) -> Iterator[Process]:
    """PostgreSQL 18."""
    yield from shared_postgres(postgresql.postgres18_binaries(), running)


@pytest.fixture(scope="session")
def postgres17(running: list[Process]) -> Iterator[Process]:
    yield from shared_postgres(postgresql.postgres17_binaries(), running)


@pytest.fixture(scope="session")
def postgres15(running: list[Process]) -> Iterator[Process]:
    yield from shared_postgres(postgresql.postgres15_binaries(), running)


@pytest.fixture(scope="session")
def durable_redis(tmp_path_factory: pytest.TempPathFactory, running: list[Process]) -> Iterator[Process]:
    """Valkey, with every write on the disk before it is answered, that shared tests may restart."""
    with redis.single(tmp_path_factory.mktemp("redis"), aof="always") as server:
        running.append(server)
        yield server
        assert not strangers(server)


@pytest.fixture(scope="module")
def durable_postgres() -> Iterator[Process]:
    """PostgreSQL that promises what it keeps, and that the tests of a module may restart."""
    with postgresql.postgres(options=["fsync=on"]) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Process]:
    """A server that the test may end."""
    (tmp_path / "redis").mkdir()
    with redis.single(tmp_path / "redis", aof="always") as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Process]:
    """A server that the test may end."""
    with postgresql.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres: Process, running: list[Process]) -> Iterator[Process]:
    """In transaction mode, before ``postgres``."""
    binary = bouncers.pgbouncer_binary()
    if binary is None:
        pytest.skip("pgbouncer is not found here")
    with bouncers.pgbouncer(binary, postgres) as server:
        running.append(server)
        yield server


@pytest.fixture(scope="session")
def sqs(tmp_path_factory: pytest.TempPathFactory, running: list[Process]) -> Iterator[Process]:
    with emulators.sqs(tmp_path_factory.mktemp("sqs")) as server:
        running.append(server)
        yield server
