"""``taskq cancel``, ``pause``, ``resume`` and what happens when the broker is away."""

import sqlite3

from tests.cli.shell import Shell, job


def test_a_cancelled_job_never_runs(shell: Shell) -> None:
    shell.enqueue(job("1"), job("2", delay=3600.0))
    assert shell.json("cancel", "1", "2") == [{"id": "1", "cancelled": True}, {"id": "2", "cancelled": True}]
    ran = shell.run("worker", "shop", "--until-idle")
    assert ran.err.count("shop.send ended: cancelled") == 2


def test_cancelling_what_is_not_there_fails(shell: Shell) -> None:
    shell.bury(job("dead"))
    shell.enqueue(job("1"))
    ran = shell.run("cancel", "1", "dead", "none", code=1)
    assert ran.out.splitlines() == [
        "1: will be cancelled",
        "dead: no such job, or it has ended",
        "none: no such job, or it has ended",
    ]


def test_a_paused_queue_is_left_alone_until_it_is_resumed(shell: Shell) -> None:
    shell.enqueue(job("1"), job("2", "news"))
    assert shell.run("pause", "mail").out == "mail: paused until resumed\n"
    assert shell.json("pause", "empty", "--for", "10m") == [{"queue": "empty", "paused": True, "seconds": 600.0}]
    paused = {queue["queue"]: (queue["paused"], queue["resumes_at"] is None) for queue in shell.json("stats")}
    assert paused == {"mail": (True, True), "news": (False, True), "empty": (True, False)}
    with shell.started("worker", "shop", "--queues", "mail,news") as worker:
        worker.line("returned", "job=2")
        assert not any("returned" in line and "job=1" in line for line in worker.said)
        shell.run("resume", "mail")
        worker.line("returned", "job=1")
    assert [queue["paused"] for queue in shell.json("stats", "mail")] == [False]


def test_a_task_or_a_tenant_is_paused_and_resumed_by_name(shell: Shell) -> None:
    paused = shell.run("pause", "--task", "shop.send", "--tenant", "acme", "mail")
    assert paused.out.splitlines() == [
        "mail: paused until resumed",
        "task shop.send: paused until resumed",
        "tenant acme: paused until resumed",
    ]
    assert "Paused besides: task shop.send, tenant acme." in shell.run("stats").out
    assert shell.json("resume", "--task", "shop.send") == [{"task": "shop.send", "paused": False}]
    assert "Paused besides: tenant acme." in shell.run("stats").out
    assert "name a queue, a --task, a --tenant or a --tag" in shell.run("pause", code=2).err
    assert "task name 'no task'" in shell.run("pause", "--task", "no task", code=2).err


def test_a_broker_out_of_reach_has_an_exit_code_of_its_own(shell: Shell) -> None:
    shell.enqueue(job("1"))
    with sqlite3.connect(shell.directory / "queue.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        ran = shell.run("cancel", "1", "--url", f"{shell.url}?busy_timeout=0.05", code=3)
    other.close()
    assert ran.err.startswith("taskq: ")
    assert ran.err.count("\n") == 1
