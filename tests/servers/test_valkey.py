import socket
from pathlib import Path
from typing import Literal

import pytest

from tests.servers.process import Process, ServerFailed, wait_until
from tests.servers.valkey import ask, cluster, single, watched


@pytest.mark.parametrize(
    ("name", "version"),
    [("valkey", "valkey_version:9.1"), ("redis82", "redis_version:8.2"), ("redis70", "redis_version:7.0")],
)
def test_each_server_is_the_version_it_is_called_after(name: str, version: str, request: pytest.FixtureRequest) -> None:
    server: Process = request.getfixturevalue(name)
    assert version in ask(server, "INFO server")


@pytest.mark.parametrize(("aof", "kept"), [("always", "1"), ("everysec", "1"), ("none", "")])
def test_a_killed_server_comes_back_with_what_its_log_keeps(
    tmp_path: Path, aof: Literal["always", "everysec", "none"], kept: str
) -> None:
    with single(tmp_path, aof=aof) as server:
        port = server.port
        ask(server, "SET key 1")
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            ask(server, "PING")
        server.start()
        assert server.port == port
        assert ask(server, "GET key") == kept


def test_a_stopped_server_comes_back_with_its_data(tmp_path: Path) -> None:
    with single(tmp_path) as server:
        ask(server, "SET key 1")
        server.stop()
        server.start()
        assert ask(server, "GET key") == "1"


def test_a_paused_server_accepts_and_says_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    with single(tmp_path) as server:
        server.pause()
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as connection:
            connection.sendall(b"PING\r\n")
            with pytest.raises(TimeoutError):
                connection.recv(100)
            server.resume()
            connection.settimeout(10.0)
            assert connection.recv(100) == b"+PONG\r\n"


def test_a_cluster_serves_every_slot(valkey_cluster: list[Process]) -> None:
    assert len(valkey_cluster) == 3
    for node in valkey_cluster:
        assert "cluster_slots_ok:16384\r" in ask(node, "CLUSTER INFO")


def test_a_killed_master_is_replaced_and_comes_back_as_a_replica(tmp_path: Path) -> None:
    with cluster(tmp_path, replicas=3) as nodes:
        master, replica = nodes[0], nodes[3]
        ask(master, "SET {06S} 1")  # in slot 0, the first master's
        assert ask(master, "WAIT 1 10000") == "1"
        master.kill()
        assert wait_until(lambda: "role:master\r" in ask(replica, "INFO replication"), 20.0)
        assert wait_until(lambda: "cluster_state:ok\r" in ask(replica, "CLUSTER INFO"), 20.0)
        assert ask(replica, "GET {06S}") == "1"
        master.start()
        assert wait_until(lambda: "role:slave\r" in ask(master, "INFO replication"), 20.0)


def test_sentinels_promote_the_replica_of_a_killed_master(tmp_path: Path) -> None:
    with watched(tmp_path) as group:
        ask(group.master, "SET key 1")
        ask(group.master, "WAIT 1 10000")
        group.master.kill()
        assert wait_until(lambda: "role:master\r" in ask(group.replica, "INFO replication"), 30.0)
        assert ask(group.replica, "GET key") == "1"


def test_a_refused_command_is_an_error(valkey: Process) -> None:
    with pytest.raises(ServerFailed, match="unknown command"):
        ask(valkey, "NO_SUCH_COMMAND")
