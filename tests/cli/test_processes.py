"""``taskq worker --processes``: workers die, grow, and are replaced by new code, and no job is lost by it."""

import json
import os
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shell import Program, Shell, job

PLUMP = """
import os

hoard = []


@app.task(queue="leak", idempotent=True)
async def leak(mebibytes: int) -> None:
    hoard.append(os.urandom(mebibytes << 20))


@app.task(queue="stubborn", idempotent=True)
async def ignore() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""


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


def test_so_many_processes_work_and_end_together(shell: Shell) -> None:
    with supervised(shell, processes=2) as program:
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


def test_a_process_that_dies_is_replaced(shell: Shell) -> None:
    with supervised(shell, processes=1) as program:
        (before,) = state(shell)["workers"]
        os.kill(before, signal.SIGKILL)
        program.line(f"worker {before} died of SIGKILL; another one in")
        assert said(program, "WorkerStarted")["pid"] != before
        program.send(signal.SIGTERM)
        assert program.code() == 0


def test_an_app_that_cannot_begin_is_given_up_loudly(shell: Shell) -> None:
    (shell.directory / "broken.py").write_text("from taskq import App\napp = App(sluts=3)\n")
    ran = shell.run("worker", "broken", "--processes", "2", code=2)
    assert "did you mean 'slots'?" in ran.err
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


def test_a_process_that_outgrows_its_memory_is_replaced_and_nothing_is_lost(shell: Shell) -> None:
    (shell.directory / "shop.py").write_text((shell.directory / "shop.py").read_text() + PLUMP)
    with supervised(shell, "--max-memory", "150M", "--slots", "1", processes=1) as program:
        (first,) = state(shell)["workers"]
        shell.enqueue(*(job(str(n), "leak", task="shop.leak", body=b'{"args":{"mebibytes":40}}') for n in range(12)))
        program.line(f"worker {first} holds", "replaced")
        assert said(program, "WorkerStarted")["pid"] != first
        while shell.json("jobs", "leak"):
            program.line("shop.leak returned")
        program.send(signal.SIGTERM)
        assert program.code() == 0
    returned = [line for line in program.said if "shop.leak returned" in line]
    assert sorted(int(json.loads(line)["job"]) for line in returned) == list(range(12))


def test_new_code_takes_over_and_the_old_finishes_what_it_runs(shell: Shell) -> None:
    body = json.dumps({"args": {"gate": str(shell.directory / "gate")}}).encode()
    shell.enqueue(job("long", "slow", task="shop.wait_for", body=body))
    with supervised(shell, "--grace", "0", processes=1) as program:
        (old,) = state(shell)["workers"]
        code = (shell.directory / "shop.py").read_text()
        (shell.directory / "shop.py").write_text(code.replace("copies} to", "copies} more to"))
        assert "generation 2 serves" in shell.run("rollout", "state.json").out
        assert old in state(shell)["workers"]
        shell.enqueue(job("new"))
        assert said(program, "shop.send returned")["job"] == "new"
        (shell.directory / "gate").touch()
        assert said(program, "shop.wait_for returned")["attempt"] == 1
        program.line("worker stopped")
        (ended,) = shell.json("job", "new", "--queue", "mail")
        assert ended["value"] == "1 more to ada"
        program.send(signal.SIGTERM)
        assert program.code() == 0


def test_new_code_that_does_not_work_leaves_the_old_one_serving(shell: Shell) -> None:
    with supervised(shell, processes=2) as program:
        before = state(shell)["workers"]
        code = (shell.directory / "shop.py").read_text()
        (shell.directory / "shop.py").write_text("raise RuntimeError('half a deploy')")
        assert "ended with code 2" in shell.run("rollout", "state.json", code=1).err
        (shell.directory / "shop.py").write_text(code)
        program.line("generation 2 failed")
        assert set(before) <= set(state(shell)["workers"])
        shell.enqueue(job("1"))
        program.line("shop.send returned")
        program.send(signal.SIGTERM)
        assert program.code() == 0


def test_a_rollout_without_a_supervisor_says_how_to_start_one(shell: Shell) -> None:
    assert "start it with --processes N --state-file" in shell.run("rollout", "state.json", code=2).err


def test_workers_whose_supervisor_was_killed_drain(shell: Shell) -> None:
    with supervised(shell, processes=2) as program:
        program.send(signal.SIGKILL)
        program.line("the supervisor is gone")
        program.line("worker stopped")
        program.line("worker stopped")


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_a_job_that_ignores_its_cancellation_is_left_to_its_lease(shell: Shell, processes: Sequence[str]) -> None:
    (shell.directory / "shop.py").write_text((shell.directory / "shop.py").read_text() + PLUMP)
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
