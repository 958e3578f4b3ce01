import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.servers.postgres import FAST, IMMEDIATE, lock_file, postgres, postgres18_binaries
from tests.servers.process import Process, descendants, state
from tests.servers.unprivileged import MAPPED, account_for, runs


def query(server: Process, sql: str) -> Any:
    """The first value of one statement, over a connection of its own."""

    async def ask() -> Any:
        connection = await asyncpg.connect(server.url, timeout=10.0)
        try:
            return await connection.fetchval(sql, timeout=10.0)
        finally:
            await connection.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(("name", "major"), [("postgres", 18), ("postgres17", 17), ("postgres15", 15)])
def test_each_server_is_the_version_it_is_called_after(name: str, major: int, request: pytest.FixtureRequest) -> None:
    server: Process = request.getfixturevalue(name)
    assert query(server, "select current_setting('server_version_num')::int / 10000") == major


def crash(server: Process) -> None:
    server.kill()


def fast(server: Process) -> None:
    server.stop(FAST)


def immediate(server: Process) -> None:
    server.stop(IMMEDIATE)


@pytest.mark.parametrize("end", [crash, fast, immediate])
def test_what_was_committed_survives_each_way_to_end(end: Callable[[Process], None]) -> None:
    with postgres() as server:
        query(server, "create table kept (number int)")
        query(server, "insert into kept values (1)")
        family = [server.pid, *descendants(server.pid)]
        end(server)
        assert all(state(pid) in "ZX" for pid in family)
        with pytest.raises(ConnectionRefusedError):
            query(server, "select 1")
        server.start()
        assert query(server, "select number from kept") == 1


BUSY = "select count(*) from generate_series(1, 1000000000000)"
BUSY_NOW = "select count(*) from pg_stat_activity where state = 'active' and query = $1"


def test_a_server_killed_under_a_busy_connection_starts_again_at_once() -> None:
    async def kill_when_busy(server: Process) -> None:
        connection = await asyncpg.connect(server.url, timeout=10.0)
        other = await asyncpg.connect(server.url, timeout=10.0)
        busy = asyncio.create_task(connection.fetchval(BUSY))
        while await other.fetchval(BUSY_NOW, BUSY) == 0:
            pass
        server.kill()
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await busy
        other.terminate()

    with postgres() as server:
        asyncio.run(kill_when_busy(server))
        server.start()
        assert server.log().count("pre-existing shared memory block") == 0
        assert query(server, "select 1") == 1


def test_a_paused_server_answers_nobody_until_it_is_resumed() -> None:
    with postgres() as server:
        server.pause()
        assert {state(pid) for pid in [server.pid, *descendants(server.pid)]} == {"T"}
        server.resume()
        assert query(server, "select 1") == 1


@pytest.mark.parametrize("end", [crash, fast, immediate])
def test_nothing_is_left_behind(end: Callable[[Process], None]) -> None:
    with postgres() as server:
        directory = server.directory
        segment = lock_file(directory / "data")[6].split()[1]
        assert segment in segments()
        end(server)
    assert segment not in segments()
    assert not directory.exists()


def segments() -> set[str]:
    """The ids of the System V shared memory there is."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
def test_root_starts_a_server_that_only_root_can_reach(tmp_path: Path) -> None:
    if runs(MAPPED, Path("/bin/true")).returncode:
        pytest.skip("user namespaces are not allowed here")
    (tmp_path / "bin").symlink_to(postgres18_binaries())
    tmp_path.chmod(0o700)
    assert account_for(tmp_path / "bin" / "initdb") == MAPPED
    with postgres(tmp_path / "bin") as server:
        assert query(server, "select 1") == 1
