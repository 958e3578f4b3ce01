"""``taskq worker --processes``: workers die, grow, and are replaced by new code, and no job is lost by it."""

import configparser
import json
import os
import re
import signal
import socket
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskq.broker import Record
from taskq.config import Settings
from taskq.connect import connect
from tests.cli.shell import APP, PATIENCE, Program, Shell, job

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"

STUBBORN = """
@app.task(queue="stubborn", idempotent=True)
async def ignore() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""


BORN = pytest.mark.parametrize("born", [(), ("--preload",)], ids=["spawned", "forked"])


@contextmanager
def supervised(shell: Shell, *arguments: str, processes: int = 2) -> Generator[Program]:
    """``taskq worker shop --processes N``, once all its workers fetch."""
    options = ["--processes", str(processes), "--gate", "0.2", "--state-file", "state.json", *arguments]
    with shell.started("worker", "shop", "--log-format", "json", "--log-level", "debug", *options) as program:
        program.line(f"{processes} workers serve")
        yield program


def state(shell: Shell) -> Any:
    return json.loads((shell.directory / "state.json").read_bytes())


def said(program: Program, *words: str) -> Any:
    return json.loads(program.line(*words))


def gone(pids: Sequence[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@BORN
def test_so_many_processes_work_and_end_together(shell: Shell, born: Sequence[str]) -> None:
    with supervised(shell, *born, processes=2) as program:
        workers = state(shell)["workers"]
        assert len(workers) == 2
        shell.enqueue(job("1"))
        program.line("shop.send returned")
        program.send(signal.SIGTERM)
        program.line("worker stopped")
        program.line("worker stopped")
        assert program.code() == 0
    assert gone(workers)
    assert not (shell.directory / "state.json").exists()


@BORN
def test_a_process_that_dies_is_replaced(shell: Shell, born: Sequence[str]) -> None:
    with supervised(shell, *born, processes=1) as program:
        (before,) = state(shell)["workers"]
        os.kill(before, signal.SIGKILL)
        program.line(f"worker {before} died of SIGKILL; another one in")
        assert said(program, "WorkerStarted")["pid"] != before
        program.send(signal.SIGTERM)
        assert program.code() == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("from taskq import App\napp = App(sluts=3)\n", "did you mean 'slots'?"),
        ("raise RuntimeError('half a deploy')\n", "RuntimeError: half a deploy"),
    ],
)
def test_an_app_that_cannot_begin_is_given_up_loudly(shell: Shell, code: str, words: str) -> None:
    (shell.directory / "broken.py").write_text(code)
    ran = shell.run("worker", "broken", "--processes", "2", code=2)
    assert words in ran.err
    assert ran.err.count("before it began to work: giving up") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--processes", "0"], "give a number of at least 1, or auto"),
        (["--processes", "2", "--reload"], "leave out --processes"),
        (["--max-memory", "300M"], "--max-memory needs a supervisor"),
        (["--processes", "1", "--max-memory", "much"], "write 300M or 2G"),
        (["--processes", "1", "--state-file", "nowhere/state"], "its directory must exist"),
    ],
)
def test_options_that_make_no_sense_are_refused(shell: Shell, arguments: Sequence[str], words: str) -> None:
    assert words in shell.run("worker", "shop", *arguments, code=2).err


def test_a_signal_during_the_start_ends_all(shell: Shell) -> None:
    options = ["--processes", "2", "--state-file", "state.json"]
    with shell.started("worker", "shop", *options) as program:
        until = time.monotonic() + PATIENCE
        while not (shell.directory / "state.json").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        program.send(signal.SIGTERM)
        assert program.code() == 0
    assert not any("killed" in line for line in program.said)


def test_a_rollout_that_is_asked_for_while_stopping_starts_nothing_that_stays(shell: Shell) -> None:
    """The kernel hands out the lower number first: USR2 comes before TERM."""
    with supervised(shell, processes=1) as program:
        program.send(signal.SIGSTOP)
        program.send(signal.SIGTERM)
        program.send(signal.SIGUSR2)
        program.send(signal.SIGCONT)
        assert program.code() == 0
    assert not any("killed" in line for line in program.said)


def test_the_second_signal_leaves_at_once_also_during_a_rollout(shell: Shell) -> None:
    body = json.dumps({"args": {"gate": str(shell.directory / "gate")}}).encode()
    shell.enqueue(job("long", "slow", task="shop.wait_for", body=body))
    with supervised(shell, "--gate", "3600", processes=1) as program:
        program.line("shop.wait_for started")
        program.send(signal.SIGUSR2)
        program.line("worker started")
        program.send(signal.SIGTERM)
        program.line("worker draining")
        program.send(signal.SIGTERM)
        assert program.code() == 128 + signal.SIGTERM
    assert [left["state"] for left in shell.json("jobs", "slow")] == ["leased"]


def test_systemd_is_told_how_long_the_drain_may_take(shell: Shell) -> None:
    """A unit that allows less is thereby made to allow it."""
    path = str(shell.directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(PATIENCE)
        with shell.started("worker", "shop", "--processes", "1", "--grace", "100", NOTIFY_SOCKET=path) as program:
            assert systemd.recv(1024).decode().splitlines() == [f"MAINPID={program.pid}", "READY=1"]
            program.send(signal.SIGTERM)
            assert systemd.recv(1024).decode().splitlines()[1:] == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=102000000"]
            assert program.code() == 0


def test_the_samples_allow_a_drain_its_time() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(DEPLOY / "taskq.service")
    (pod,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", (DEPLOY / "kubernetes.yaml").read_text())
    (grace,) = re.findall(r'TASKQ_GRACE, value: "(\d+)"', (DEPLOY / "kubernetes.yaml").read_text())
    assert int(pod) >= int(grace) + 5
    assert int(unit["Service"]["TimeoutStopSec"]) >= Settings().grace + 5


def test_a_rollout_without_a_supervisor_says_how_to_start_one(shell: Shell) -> None:
    assert "start it with --processes N --state-file" in shell.run("rollout", "state.json", code=2).err


@BORN
def test_workers_whose_supervisor_was_killed_drain(shell: Shell, born: Sequence[str]) -> None:
    with supervised(shell, *born, processes=2) as program:
        program.send(signal.SIGKILL)
        program.line("the supervisor is gone")
        program.line("worker stopped")
        program.line("worker stopped")


def test_forked_workers_share_what_the_app_took_and_are_replaced_with_who_bore_them(shell: Shell) -> None:
    (shell.directory / "shop.py").write_text(APP + "ballast = b'x' * (64 << 20)")
    with supervised(shell, "--preload", processes=2) as program:
        before = state(shell)["workers"]
        for pid in before:
            shared = Path(f"/proc/{pid}/smaps_rollup").read_text()
            assert int(re.findall(r"Private_Dirty: +(\d+)", shared)[0]) < 48 << 10
        (mother,) = {int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in before}
        assert mother != program.pid
        os.kill(mother, signal.SIGKILL)
        for _ in before:
            program.line("another one in")
        for _ in before:
            assert said(program, "WorkerStarted")["pid"] not in before
        program.send(signal.SIGTERM)
        assert program.code() == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "threads (Th"),
        ("import socket; left_open = socket.socket()", "1 open sockets"),
    ],
)
def test_an_app_that_cannot_be_forked_is_refused(shell: Shell, code: str, words: str) -> None:
    (shell.directory / "shop.py").write_text(APP + code)
    ran = shell.run("worker", "shop", "--processes", "1", "--preload", code=2)
    assert f"--preload: importing the app has left {words}" in ran.err
    assert "open them in the lifespan, or leave out --preload" in ran.err


def test_a_rollout_brings_new_code_to_forked_workers_too(shell: Shell) -> None:
    with supervised(shell, "--preload", processes=1) as program:
        (old,) = state(shell)["workers"]
        (shell.directory / "shop.py").write_text(APP + '__version__ = "2"')
        assert "generation 2 serves" in shell.run("rollout", "state.json").out
        program.line("marked in the history: 2")
        program.send(signal.SIGTERM)
        assert program.code() == 0
    assert gone([old])


def test_term_drains_all_pools_on_all_brokers(shell: Shell) -> None:
    far = Shell(shell.directory, f"sqlite:///{shell.directory / 'far.db'}")
    (shell.directory / "taskq.toml").write_text(f"""
        brokers = {{far = "{far.url}"}}
        pools = {{near = {{queues = ["mail"], slots = 1}}, far = {{queues = ["slow"], slots = 1, broker = "far"}}}}
    """)
    body = json.dumps({"args": {"gate": str(shell.directory / "gate")}}).encode()
    shell.enqueue(job("near-1", task="shop.wait_for", body=body), job("near-2"))
    far.enqueue(job("far-1", "slow", task="shop.wait_for", body=body), job("far-2", "slow"))
    with shell.started("worker", "shop", "--log-level", "debug") as program:
        program.line("shop.wait_for started")
        program.line("shop.wait_for started")
        program.send(signal.SIGTERM)
        program.line("worker draining: 2 jobs run")
        (shell.directory / "gate").touch()
        program.line("worker stopped")
        assert program.code() == 0
    for place, queue, left in ((shell, "mail", "near-2"), (far, "slow", "far-2")):
        (found,) = anyio.run(records, place.url, queue)
        assert (found.job.id, found.state, found.attempt, found.losses) == (left, "ready", 1, 0)


async def records(url: str, queue: str) -> Sequence[Record]:
    async with connect(url) as backend:
        assert backend.admin is not None
        return [
            record
            for state in ("ready", "leased", "later", "dead")
            for record in await backend.admin.list_jobs(queue, state, after=None, limit=10)
        ]


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_a_job_that_ignores_its_cancellation_is_left_to_its_lease(shell: Shell, processes: Sequence[str]) -> None:
    (shell.directory / "shop.py").write_text((shell.directory / "shop.py").read_text() + STUBBORN)
    shell.enqueue(job("1", "stubborn", task="shop.ignore", body=b'{"args":{}}'))
    with shell.started("worker", "shop", "--grace", "0", "--log-level", "debug", *processes) as program:
        program.line("shop.ignore started")
        program.send(signal.SIGTERM)
        program.line("1 jobs ignore their cancellation: leaving them to their leases")
        assert program.code() == (0 if processes else 128 + signal.SIGTERM)
    (left,) = shell.json("jobs", "stubborn")
    assert (left["state"], left["attempt"]) == ("leased", 1)


def test_settings_are_read_again_on_a_hup(shell: Shell) -> None:
    with shell.started("worker", "shop", "--slots", "7") as program:
        program.line("7 slots, queues mail, slow, bad, default")
        (shell.directory / "taskq.toml").write_text('slots = 3\nqueues = ["mail"]\ngrace = 5')
        program.send(signal.SIGHUP)
        program.line("HUP: 7 slots, queues mail, grace 5 s")
        (shell.directory / "taskq.toml").write_text("sluts = 3")
        program.send(signal.SIGHUP)
        program.line("HUP: the settings stay as they were", "did you mean 'slots'?")
        program.send(signal.SIGTERM)
        assert program.code() == 0
