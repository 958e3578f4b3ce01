"""``taskq workers``: who works, since when, at what; and what operators ask of them."""

from collections.abc import Sequence
from signal import SIGKILL, SIGTERM
from typing import Any

from tests.cli.shell import Shell, job


def listed(shell: Shell, count: int) -> Sequence[Any]:
    """The workers, once there are so many: one tells of itself in a moment after it began to work."""
    while len(entries := shell.json("workers")) != count:
        pass
    return entries


def only(shell: Shell) -> Any:
    """The one worker there is."""
    return listed(shell, 1)[0]


def until(shell: Shell, state: str) -> None:
    """Ask again and again until the one worker tells of this state."""
    while only(shell)["state"] != state:
        pass


def test_a_worker_is_listed_with_what_it_runs_until_it_ends(shell: Shell) -> None:
    assert shell.run("workers").out == "No worker tells of itself here.\n"
    shell.enqueue(job("1", "slow", task="shop.wait_for", body=b'{"args":{"gate":"gate"}}'))
    with shell.started("worker", "shop", "--slots", "7", "--log-level", "debug", TASKQ_BUILD="v42") as worker:
        worker.line("shop.wait_for started")
        entry = only(shell)
        assert (entry["state"], entry["slots"], entry["running"]) == ("working", 7, 1)
        assert [(one["id"], one["task"], one["attempt"]) for one in entry["jobs"]] == [("1", "shop.wait_for", 1)]
        assert (entry["pid"], entry["build"]) == (worker.pid, "v42")
        assert entry["memory"] > 1 << 20
        assert "shop.wait_for" in shell.run("workers").out
        (shell.directory / "gate").touch()
        worker.send(SIGTERM)
        assert worker.code() == 0
    assert shell.json("workers") == []


def test_a_worker_does_what_an_operator_asks(shell: Shell) -> None:
    with shell.started("worker", "shop") as worker:
        worker.line("worker started")
        name = only(shell)["id"]
        assert shell.run("workers", "ask", "quiet", name).out == f"{name}: asked to quiet\n"
        worker.line("asked by an operator: quiet")
        until(shell, "quiet")
        shell.enqueue(job("1"))
        shell.run("workers", "ask", "dump", "all")
        worker.line("0 jobs run")
        shell.run("workers", "ask", "resume", name)
        worker.line("shop.send returned")
        until(shell, "working")
        shell.run("workers", "ask", "drain", name)
        worker.line("worker stopped")
        assert worker.code() == 0


def test_an_order_for_nobody_fails(shell: Shell) -> None:
    assert "there is no such worker" in shell.run("workers", "ask", "drain", "nobody", code=1).out
    shell.run("workers", "ask", "drain", "all", code=1)


def test_two_workers_are_two_and_a_killed_one_stays_until_what_it_told_lapses(shell: Shell) -> None:
    with shell.started("worker", "shop") as first, shell.started("worker", "shop") as second:
        first.line("worker started")
        second.line("worker started")
        assert len({entry["pid"] for entry in listed(shell, 2)}) == 2
        shell.run("workers", "ask", "drain", "all")
        assert (first.code(), second.code()) == (0, 0)
    with shell.started("worker", "shop") as killed:
        name = only(shell)["id"]
        killed.send(SIGKILL)
        killed.code()
        assert [entry["id"] for entry in shell.json("workers")] == [name]
