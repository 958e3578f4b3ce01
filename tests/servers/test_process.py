import os
import shutil
import signal
import socket
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.servers.postgres import remove_segment
from tests.servers.process import Process, ServerFailed, descendants, free_ports, state, wait_until
from tests.servers.valkey import ask, single, valkey_binary

OWNER = """
import sys
from pathlib import Path
from tests.servers.postgres import postgres
from tests.servers.valkey import single
with single(Path(sys.argv[1])) as redis, postgres() as database:
    print(database.directory, redis.pid, database.pid, flush=True)
    sys.stdin.read()
"""


def shell(directory: Path, script: str) -> Process:
    """A server made of a shell script, ready when its log says so."""

    def command(port: int) -> list[str]:
        return ["sh", "-c", script.format(port=port)]

    def answers(server: Process) -> bool:
        return "ready" in server.log()

    return Process(directory, command, url="test://127.0.0.1:{port}", answers=answers)


def test_a_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory, *pids = owner.stdout.readline().split()
        servers = [int(pid) for pid in pids]
        family = [*servers, *(child for pid in servers for child in descendants(pid))]
        assert len(family) > 2
        assert all(state(pid) not in "ZX" for pid in family)
        owner.kill()
    assert wait_until(lambda: all(state(pid) in "ZX" for pid in family), 30.0)
    remove_segment(Path(directory) / "data")
    shutil.rmtree(directory)


def test_a_port_that_was_taken_meanwhile_is_given_up_for_another(tmp_path: Path) -> None:
    def command(port: int) -> list[str]:
        return [str(valkey_binary()), "--bind", "127.0.0.1", "--port", str(port)]

    def answers(server: Process) -> bool:
        return "Ready to accept" in server.log()

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken, free = other.getsockname()[1], next(free_ports())
        with Process(tmp_path, command, url="{port}", answers=answers, ports=iter([taken, free])) as server:
            assert server.port == free
            assert ask(server, "PING") == "PONG"


def test_processes_of_a_test_run_take_no_port_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    taken: list[set[int]] = []
    for worker in ("gw0", "gw1"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        taken.append({port + above for port in islice(free_ports(), 200) for above in (0, 1)})
    assert taken[0].isdisjoint(taken[1])


def test_a_server_that_cannot_start_says_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="no such option"):
        shell(tmp_path, "echo no such option; exit 1").start()


def test_a_server_that_never_answers_is_killed(tmp_path: Path) -> None:
    server = shell(tmp_path, "echo pid $$; sleep 1000")
    with pytest.raises(ServerFailed, match="did not start"):
        server.start(patience=0.2)
    assert not server.running
    assert state(int(server.log().split()[1])) in "ZX"


def test_a_server_that_will_not_stop_is_killed_and_reported(tmp_path: Path) -> None:
    with shell(tmp_path, "trap '' TERM; echo ready; while :; do sleep 1000; done") as server:
        pid = server.pid
        with pytest.raises(ServerFailed, match="did not stop"):
            server.stop(patience=0.2)
        assert state(pid) in "ZX"


def test_kill_takes_the_children_along(tmp_path: Path) -> None:
    with shell(tmp_path, "sleep 1000 & sleep 1000 & echo ready; wait") as server:
        assert wait_until(lambda: len(descendants(server.pid)) == 2, 10.0)
        family = [server.pid, *descendants(server.pid)]
        server.kill()
        assert all(state(pid) in "ZX" for pid in family)


def test_a_paused_server_can_be_killed(tmp_path: Path) -> None:
    with single(tmp_path) as server:
        pid = server.pid
        server.pause()
        server.kill()
        assert state(pid) in "ZX"


def test_what_a_server_printed_is_shown_when_the_test_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), shell(tmp_path, "echo ready and steady; sleep 1000"):
        raise ZeroDivisionError
    assert "ready and steady" in capsys.readouterr().out


def test_a_server_that_died_by_itself_can_be_started_again(tmp_path: Path) -> None:
    with single(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        assert wait_until(lambda: not server.running, 10.0)
        server.start()
        assert ask(server, "PING") == "PONG"


def test_a_running_server_is_not_started_twice(tmp_path: Path) -> None:
    with single(tmp_path) as server, pytest.raises(ServerFailed, match="running already"):
        server.start()
