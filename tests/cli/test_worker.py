"""``taskq worker``: what it runs, what it logs, how it ends."""

import json
import re
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGTERM, SIGTSTP, SIGTTIN, SIGUSR1, Signals

import pytest

from taskq.job import Job
from tests.cli.shell import Shell, job


def waiting(directory: Path, id: str, gate: str = "gate") -> Job:
    """A job that runs until a file is there."""
    body = json.dumps({"args": {"gate": str(directory / gate)}}).encode()
    return job(id, "slow", task="shop.wait_for", body=body)


def test_until_idle_works_off_what_is_due_and_ends(shell: Shell) -> None:
    shell.enqueue(job("1"), job("2"), job("later", delay=3600.0))
    ran = shell.run("worker", "shop:app", "--until-idle")
    assert ran.err.count("shop.send returned") == 2
    (mail,) = shell.json("stats", "mail")
    assert (mail["ready"], mail["leased"], mail["later"]) == (0, 0, 1)


def test_max_jobs_ends_after_so_many_runs(shell: Shell) -> None:
    shell.enqueue(job("1"), job("2"), job("3"))
    ran = shell.run("worker", "shop", "--max-jobs", "2")
    assert ran.err.count("shop.send returned") == 2
    assert [left["id"] for left in shell.json("jobs", "mail")] == ["3"]


def test_queues_names_what_is_fetched(shell: Shell) -> None:
    shell.enqueue(job("1"), job("2", "news"), job("3", "other"))
    ran = shell.run("worker", "--queues", "news,mail", "--slots", "1", "--until-idle", TASKQ_APP="shop:app")
    assert "1 slots, queues news, mail" in ran.err
    assert ran.err.index("job=2") < ran.err.index("job=1")
    assert "job=3" not in ran.err


def test_queues_are_named_by_globs_and_exclusions_too(shell: Shell) -> None:
    shell.enqueue(job("1", "mail-de"), job("2", "mail-bulk"), job("3", "other"))
    ran = shell.run("worker", "--queues", "mail-*,!mail-bulk", "--until-idle", TASKQ_APP="shop:app")
    assert "job=1" in ran.err
    assert "job=2" not in ran.err
    assert "job=3" not in ran.err


def test_json_logs_carry_the_fields_of_the_job(shell: Shell) -> None:
    shell.enqueue(job("1"), job("2", "bad", task="shop.fail", body=b'{"args":{"word":"broken"}}'))
    ran = shell.run("worker", "shop", "--until-idle", "--log-format", "json", "--log-level", "debug")
    lines = [json.loads(line) for line in ran.err.splitlines()]
    fields = {"job": "1", "task": "shop.send", "queue": "mail", "attempt": 1}
    mail = [line for line in lines if line.get("job") == "1"]
    assert [line["message"].partition(" after")[0] for line in mail if line["logger"] == "taskq.job"] == ["on its way"]
    assert [line["event"] for line in mail if "event" in line] == ["JobStarted", "JobFinished"]
    assert all(fields.items() <= line.items() for line in mail)
    (failed,) = [line for line in lines if line.get("job") == "2" and line["level"] == "error"]
    assert failed["error"]["message"] == "ValueError: broken"
    assert "in fail" in failed["error"]["traceback"]
    assert [line["event"] for line in lines if line.get("event", "").startswith("Worker")] == [
        "WorkerStarted",
        "WorkerStopped",
    ]


def test_text_logs_tell_an_error_with_its_traceback_and_the_level_holds_back_the_rest(shell: Shell) -> None:
    shell.enqueue(job("1"), job("2", "bad", task="shop.fail", body=b'{"args":{"word":"broken"}}'))
    ran = shell.run("worker", "shop", "--until-idle", "--log-level", "warning")
    assert "ERROR   shop.fail ended: failed  job=2 queue=bad attempt=1\nTraceback" in ran.err
    assert ran.err.rstrip().endswith("ValueError: broken")
    assert "shop.send" not in ran.err


@pytest.mark.parametrize("signal", [SIGTERM, SIGINT])
def test_a_signal_drains_so_that_a_running_job_finishes(shell: Shell, signal: Signals) -> None:
    shell.enqueue(waiting(shell.directory, "1"))
    with shell.started("worker", "shop", "--log-level", "debug") as worker:
        worker.line("shop.wait_for started")
        worker.send(signal)
        worker.line("worker draining: 1 jobs run")
        (shell.directory / "gate").touch()
        worker.line("shop.wait_for returned")
        worker.line("worker stopped")
        assert worker.code() == 0
    assert shell.json("jobs", "slow") == []


def test_what_runs_longer_than_the_grace_is_given_back_uncounted(shell: Shell) -> None:
    shell.enqueue(waiting(shell.directory, "1"))
    with shell.started("worker", "shop", "--grace", "0", "--log-level", "debug") as worker:
        worker.line("shop.wait_for started")
        worker.send(SIGTERM)
        worker.line("shop.wait_for runs again in 0.0 s: the worker is shutting down")
        assert worker.code() == 0
    (left,) = shell.json("jobs", "slow")
    assert (left["state"], left["attempt"], left["losses"]) == ("ready", 1, 0)


@pytest.mark.parametrize("signal", [SIGTERM, SIGINT])
def test_the_second_signal_leaves_what_runs_to_its_lease(shell: Shell, signal: Signals) -> None:
    shell.enqueue(waiting(shell.directory, "1"))
    with shell.started("worker", "shop", "--log-level", "debug") as worker:
        worker.line("shop.wait_for started")
        worker.send(signal)
        worker.line("worker draining")
        worker.send(signal)
        worker.line(f"{signal.name} again")
        assert worker.code() == 128 + signal
    assert [left["state"] for left in shell.json("jobs", "slow")] == ["leased"]


def test_a_signal_ends_an_app_that_is_still_opening(shell: Shell) -> None:
    (shell.directory / "opening.py").write_text(
        """
import asyncio, contextlib, logging
from taskq import App

@contextlib.asynccontextmanager
async def lifespan(app):
    logging.warning("opening")
    await asyncio.Event().wait()
    yield

app = App(lifespan=lifespan)
"""
    )
    with shell.started("worker", "opening") as worker:
        worker.line("opening")
        worker.send(SIGTERM)
        assert worker.code() == 0


@pytest.mark.parametrize("signal", [SIGUSR1, SIGTSTP])
def test_a_quiet_worker_fetches_nothing_until_told_to_go_on(shell: Shell, signal: Signals) -> None:
    shell.enqueue(waiting(shell.directory, "1"))
    # The one slot is taken, so no fetch is under way when the signal comes.
    with shell.started("worker", "shop", "--slots", "1", "--log-level", "debug") as worker:
        worker.line("shop.wait_for started")
        worker.send(signal)
        worker.line(f"{signal.name}: fetching no more")
        shell.enqueue(job("2"))
        (shell.directory / "gate").touch()
        worker.line("shop.wait_for returned")
        worker.send(SIGTTIN)
        worker.line("0 jobs run")
        worker.send(SIGCONT)
        worker.line("SIGCONT: fetching again")
        assert not any("shop.send started" in line for line in worker.said)
        worker.line("shop.send returned")
        worker.send(SIGTERM)
        assert worker.code() == 0


def test_a_worker_that_drains_is_not_told_to_go_on(shell: Shell) -> None:
    """Whoever ends a process group sends CONT behind TERM, so that stopped ones see it."""
    shell.enqueue(waiting(shell.directory, "1"))
    with shell.started("worker", "shop", "--log-level", "debug") as worker:
        worker.line("shop.wait_for started")
        worker.send(SIGTERM)
        worker.line("worker draining")
        worker.send(SIGCONT)
        worker.send(SIGTTIN)
        worker.line("1 jobs run")
        (shell.directory / "gate").touch()
        assert worker.code() == 0
    assert not any("fetching again" in line for line in worker.said)


def test_ttin_tells_where_each_running_job_waits(shell: Shell) -> None:
    shell.enqueue(waiting(shell.directory, "1"))
    with shell.started("worker", "shop", "--log-format", "json", "--log-level", "debug") as worker:
        worker.line("shop.wait_for started")
        worker.send(SIGTTIN)
        worker.line("1 jobs run")
        dump = json.loads(worker.line("has run for"))
        assert (dump["job"], dump["task"]) == ("1", "shop.wait_for")
        assert "in wait_for\n    await until_there(Path(gate))" in dump["message"]
        assert "in until_there\n    await asyncio.sleep(0.01)" in dump["message"]


def test_reload_starts_anew_when_a_file_changes_and_waits_for_a_mended_one(shell: Shell) -> None:
    source = shell.directory / "shop.py"
    works = source.read_text()
    with shell.started("worker", "shop", "--reload", "--log-format", "json", "--log-level", "debug") as worker:
        first = json.loads(worker.line("WorkerStarted"))
        shell.enqueue(waiting(shell.directory, "1"))
        worker.line("shop.wait_for started")
        source.write_text(works.replace('"mail"', '"letters"'))
        worker.line("shop.py changed")
        worker.line("worker draining")
        (shell.directory / "gate").touch()
        worker.line("shop.wait_for returned")
        second = json.loads(worker.line("WorkerStarted"))
        assert second["pid"] != first["pid"]
        assert second["queues"] == ["letters", "slow", "bad", "default"]
        source.write_text("def")
        worker.line("SyntaxError")
        worker.line("ended with code 2")
        source.write_text(works)
        worker.line("WorkerStarted")
        worker.send(SIGTERM)
        worker.line("WorkerStopped")
        assert worker.code() == 0


def test_a_worker_that_reloads_ends_with_the_one_it_started(shell: Shell) -> None:
    shell.enqueue(job("1"))
    ran = shell.run("worker", "shop", "--reload", "--until-idle")
    assert "shop.send returned" in ran.err


def test_a_worker_does_not_carry_what_draws_tables(shell: Shell) -> None:
    source = shell.directory / "shop.py"
    source.write_text(
        source.read_text()
        + """
@app.task(queue="mail")
async def heavy() -> None:
    import sys
    current().logger.info("carries: %s", sorted({"rich", "watchfiles", "pydantic"} & set(sys.modules)))
"""
    )
    shell.enqueue(job("1", task="shop.heavy", body=b'{"args":{}}'))
    assert "carries: []" in shell.run("worker", "shop", "--until-idle").err


def test_a_worker_runs_the_pools_it_is_told_to_and_check_lists_them(shell: Shell) -> None:
    (shell.directory / "taskq.toml").write_text(
        '[pools.post]\nqueues = ["mail"]\nslots = 3\n[pools.rest]\nqueues = ["slow", "bad"]\n'
    )
    shell.enqueue(job("1"), job("2", queue="bad", task="shop.fail"))
    ran = shell.run("worker", "shop", "--until-idle", "--pool", "post")
    assert "worker started: 3 slots, queues mail" in ran.err
    assert "shop.send returned" in ran.err
    assert "shop.fail" not in ran.err
    assert "103 slots, queues mail, slow, bad" in shell.run("worker", "shop", "--until-idle").err
    checked = shell.run("check", "shop").out
    assert "3 slots for mail" in checked
    assert "100 slots for slow, bad" in checked
    assert (
        "no pool is named 'past' (configured: post, rest)" in shell.run("worker", "shop", "--pool", "past", code=2).err
    )
    assert "give pools or these" in shell.run("worker", "shop", "--pool", "post", "--slots", "2", code=2).err


def test_a_worker_serves_several_brokers_and_check_and_stats_know_all(shell: Shell) -> None:
    source = shell.directory / "shop.py"
    source.write_text(re.sub(r"App\(.*\)", "App()", source.read_text()))
    (shell.directory / "taskq.toml").write_text(
        'url = "sqlite:///queue.db"\nbrokers = {far = "sqlite:///far.db"}\n'
        '[pools.post]\nqueues = ["mail"]\n[pools.far]\nqueues = ["slow", "bad"]\nbroker = "far"\n'
    )
    shell.run("defer", "shop.send", '["ada"]', "--app", "shop")
    shell.run("defer", "shop.fail", '["no"]', "--app", "shop")
    assert [queue["queue"] for queue in shell.json("stats")] == ["bad", "mail"]
    ran = shell.run("worker", "shop", "--until-idle")
    assert "shop.send returned" in ran.err
    assert "shop.fail ended: failed" in ran.err
    assert [dead["queue"] for dead in shell.json("dead", "list")] == ["bad"]
    checked = shell.run("check", "shop").out
    assert "100 slots for slow, bad, on broker far" in checked
    assert "default: a deferred job survives a crash of the machine; far: a deferred job survives" in checked
    assert "on several brokers" in shell.run("worker", "shop", "--slots", "2", code=2).err


def test_no_password_of_any_broker_is_shown(shell: Shell) -> None:
    (shell.directory / "taskq.toml").write_text(
        'brokers = {far = "redis://me:secret@far"}\n[pools.far]\nqueues = ["far"]\nbroker = "far"\n'
    )
    shown = shell.run("config").out
    assert "redis://me:***@far" in shown
    assert "secret" not in shown
