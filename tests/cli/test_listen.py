"""``taskq worker --listen``: probes and metrics of a worker."""

import re
import socket
from signal import SIGTERM
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.cli.shell import Program, Shell, job

STALL = """

@app.task(queue="stall", idempotent=True)
async def stall(gate: str) -> None:
    import time
    while not Path(gate).exists():
        time.sleep(0.01)
"""


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def port_of(program: Program) -> int:
    found = re.search(r"listening on 127\.0\.0\.1:(\d+)", program.line("listening on"))
    assert found is not None
    return int(found[1])


def test_a_worker_answers_probes_and_tells_its_metrics(shell: Shell) -> None:
    shell.enqueue(job("1"))
    with shell.started("worker", "shop", "--listen", "0") as worker:
        port = port_of(worker)
        worker.line("worker started")
        worker.line("shop.send returned")
        assert get(port, "/livez") == (200, "ok\n")
        assert get(port, "/readyz") == (200, "ok\n")
        status, page = get(port, "/metrics")
        assert (status, 'taskq_end="returned"' in page) == (200, True)
        assert get(port, "/else")[0] == 404
        worker.send(SIGTERM)
        assert worker.code() == 0


def test_a_draining_worker_is_alive_and_not_ready(shell: Shell) -> None:
    shell.enqueue(job("1", "slow", task="shop.wait_for", body=b'{"args":{"gate":"gate"}}'))
    with shell.started("worker", "shop", "--listen", "0", "--log-level", "debug") as worker:
        port = port_of(worker)
        worker.line("shop.wait_for started")
        worker.send(SIGTERM)
        worker.line("worker draining")
        assert get(port, "/livez") == (200, "ok\n")
        assert get(port, "/readyz") == (503, "it is draining\n")
        (shell.directory / "gate").touch()
        assert worker.code() == 0


def test_a_stalled_loop_fails_liveness(shell: Shell) -> None:
    """AS-12."""
    (shell.directory / "shop.py").write_text((shell.directory / "shop.py").read_text() + STALL)
    (shell.directory / "taskq.toml").write_text("stall_warning = 0.2")
    shell.enqueue(job("1", "stall", task="shop.stall", body=b'{"args":{"gate":"gate"}}'))
    with shell.started("worker", "shop", "--listen", "0") as worker:
        port = port_of(worker)
        worker.line("the event loop has stood still", "in shop.stall")
        while (answer := get(port, "/livez"))[0] == 200:
            pass
        assert answer[1].startswith("the event loop has stood still")
        (shell.directory / "gate").touch()
        worker.line("shop.stall returned")
        while get(port, "/livez")[0] != 200:
            pass
        worker.send(SIGTERM)
        assert worker.code() == 0


def test_a_port_that_is_taken_is_refused_at_the_start(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is taken" in shell.run("worker", "shop", "--listen", str(port), code=2).err


def test_supervised_workers_take_the_next_free_ports(shell: Shell) -> None:
    with shell.started("worker", "shop", "--listen", "29100", "--processes", "2") as program:
        ports = {port_of(program), port_of(program)}
        assert len(ports) == 2
        program.line("2 workers serve")
        assert {get(port, "/readyz")[0] for port in ports} == {200}
        program.send(SIGTERM)
        assert program.code() == 0


@pytest.mark.parametrize("text", ["much", "1:2:x", "99999"])
def test_an_address_that_makes_no_sense_is_refused(shell: Shell, text: str) -> None:
    assert "0.0.0.0:9100" in shell.run("worker", "shop", "--listen", text, code=2).err
