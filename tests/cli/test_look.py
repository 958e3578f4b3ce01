"""``taskq stats``, ``jobs``, ``job``, ``check``, ``config``, ``demo``: what there is to see."""

import json
import re
from importlib.metadata import version

import pytest

from tests.cli.shell import APP, Shell, job


def test_stats_counts_the_jobs_of_each_queue(shell: Shell) -> None:
    assert shell.run("stats").out == f"No queue holds a job at {shell.url} (environment).\n"
    shell.bury(job("dead", "bad"))
    shell.enqueue(job("1"), job("2"), job("later", "news", delay=3600.0))
    counted = {queue["queue"]: (queue["ready"], queue["later"], queue["dead"]) for queue in shell.json("stats")}
    assert counted == {"mail": (2, 0, 0), "news": (0, 1, 0), "bad": (0, 0, 1)}
    assert [queue["queue"] for queue in shell.json("stats", "mail", "none")] == ["mail", "none"]
    titles, *rows = shell.run("stats").out.splitlines()
    assert titles.split() == ["queue", "ready", "leased", "later", "dead", "oldest"]
    assert [row.split()[:5] for row in rows if row.startswith("news")] == [["news", "0", "0", "1", "0"]]


def test_a_table_on_a_terminal_has_colours(shell: Shell) -> None:
    shell.enqueue(job("1"))
    printed = shell.on_terminal("jobs", "mail")
    assert "\x1b[36mready" in printed
    assert "\x1b[" not in shell.run("jobs", "mail").out


def test_an_id_is_never_broken_in_two_lines_on_a_terminal(shell: Shell) -> None:
    shell.enqueue(job("0123456789abcdef0123456789abcdef", body=b'{"args":{"to":"' + b"ada " * 50 + b'"}}'))
    assert "0123456789abcdef0123456789abcdef" in shell.on_terminal("jobs", "mail", columns=80)


def test_jobs_lists_a_queue_by_state_and_goes_on_behind_an_id(shell: Shell) -> None:
    shell.bury(job("0"))
    shell.enqueue(job("1"), job("2"), job("3"), job("later", delay=3600.0))
    assert [(each["id"], each["state"]) for each in shell.json("jobs", "mail")] == [
        ("later", "later"),
        ("1", "ready"),
        ("2", "ready"),
        ("3", "ready"),
        ("0", "dead"),
    ]
    listed = shell.json("jobs", "mail", "--state", "ready", "--after", "1", "--limit", "1")
    assert [each["id"] for each in listed] == ["2"]
    assert (
        shell.run("jobs", "none", "--state", "ready").out
        == f"Queue 'none' holds no ready jobs at {shell.url} (environment).\n"
    )
    assert "give --state, too" in shell.run("jobs", "mail", "--after", "1", code=2).err


def test_who_names_no_queue_is_told_which_there_are(shell: Shell) -> None:
    none = f"there is none with jobs at {shell.url} (environment)"
    assert none in shell.run("jobs", code=2).err
    shell.bury(job("dead"))
    shell.enqueue(job("1"), job("2", "news"), job("later", delay=3600.0))
    assert "say of which queue: mail (3 jobs), news (1 job) (see taskq jobs --help)" in shell.run("jobs", code=2).err
    assert shell.run("jobs", "--state", "ready", "--json", code=2).out == ""


def test_jobs_are_listed_and_shown_by_their_tags(shell: Shell) -> None:
    tagged = [job(f"{n:04}", headers={"taskq-tags": "eu,bulk"} if n % 300 == 0 else {}) for n in range(1201)]
    shell.enqueue(*tagged, job("later", delay=60, headers={"taskq-tags": "bulk"}))
    listed = shell.json("jobs", "mail", "--tag", "bulk", "--limit", "4")
    assert [each["id"] for each in listed] == ["later", "0000", "0300", "0600", "0900"]
    behind = shell.json("jobs", "mail", "--tag", "bulk", "--state", "ready", "--after", "0900")
    assert [(each["id"], each["tags"]) for each in behind] == [("1200", ["eu", "bulk"])]
    assert (
        shell.run("jobs", "mail", "--tag", "none").out
        == f"Queue 'mail' holds no jobs of tag 'none' at {shell.url} (environment).\n"
    )
    assert "tags          eu, bulk" in shell.run("job", "0300").out


def test_dead_letters_that_lapsed_are_counted(shell: Shell) -> None:
    shell.enqueue(job("1", "bad", task="shop.fail", body=b'{"args":{"word":"no"}}'))
    shell.run("worker", "shop", "--until-idle", "--queues", "bad", TASKQ_KEEP_DEAD="0.01")
    assert [(one["dead"], one["lapsed"]) for one in shell.json("stats", "bad")] == [(0, 1)]
    assert "Dead letters whose time was over, so far: bad 1." in shell.run("stats", "bad").out


def test_a_job_is_shown_with_its_arguments_and_errors(shell: Shell) -> None:
    shell.bury(job("1", tenant="acme"), error="OSError: disk\x1b[31m full")
    (shown,) = shell.json("job", "1")
    assert (shown["state"], shown["end"], shown["tenant"]) == ("dead", "failed", "acme")
    assert shown["errors"][0]["type"] == "OSError"
    text = shell.run("job", "1").out
    assert 'arguments     {"to":"ada"}' in text
    assert "OSError: disk [31m full [print-of-OSError]" in text


def test_a_job_tells_which_builds_ran_it(shell: Shell) -> None:
    (shell.directory / "shop.py").write_text(APP + '__version__ = "1.2"')
    shell.enqueue(job("1", "bad", task="shop.fail", body=b'{"args":{"word":"no"}}'), job("2"))
    shell.run("worker", "shop", "--until-idle", "--queues", "bad", TASKQ_BUILD="v42")
    assert "ValueError: no [" in (text := shell.run("job", "1").out)
    assert "] build v42\n" in text
    assert "attempt 1 (build v42) failed" in shell.run("explain", "1").out
    shell.run("worker", "shop", "--until-idle")
    assert "build         1.2" in shell.run("job", "2", "--queue", "mail").out


def test_an_ended_job_is_shown_as_long_as_its_outcome_is_kept(shell: Shell) -> None:
    shell.enqueue(job("1"))
    shell.run("worker", "shop", "--until-idle")
    (shown,) = shell.json("job", "1", "--queue", "mail")
    assert (shown["state"], shown["end"], shown["value"]) == ("gone", "returned", "1 to ada")
    assert "gone, returned" in shell.run("job", "1", "--queue", "mail").out
    assert "there is no job '1'" in shell.run("job", "1", code=1).err


def test_explain_tells_why_a_job_does_not_run_and_what_to_do(shell: Shell) -> None:
    shell.bury(job("dead"), error="OSError: disk\x1b[31m full")
    shell.enqueue(job("1"))
    shell.run("pause", "mail")
    told = shell.run("explain", "1").out.splitlines()
    assert told == [
        "1 (shop.send) is ready",
        "├─ queue mail is paused until somebody resumes it",
        "│  → taskq resume mail",
        "└─ no worker serves queue mail: none is there",
        "   → taskq worker MODULE:app --queues mail",
    ]
    told = shell.run("explain", "dead").out.splitlines()
    assert told[1].startswith("├─ it was set aside, failed: OSError: disk [31m full")
    assert told[2:4] == ["│  → taskq dead revive dead", "└─ it is at attempt 1, and has run before"]
    assert shell.json("explain", "1")[0]["reasons"][0]["kind"] == "paused"
    assert shell.run("explain", "none", code=1).out.startswith("none is unknown\n")


def test_a_body_of_another_kind_is_shown_as_text(shell: Shell) -> None:
    shell.enqueue(job("1", body=b"\xff<xml/>"))
    assert shell.json("job", "1")[0]["args"] == "\ufffd<xml/>"


def test_check_tells_what_to_know_of_an_app_and_fails_under_strict(shell: Shell) -> None:
    ran = shell.run("check", "shop:app")
    assert ran.out.startswith("warning: shop.fail: it may run more than once")
    assert ran.out.endswith("3 tasks, 0 errors, 1 warnings; a deferred job survives a crash of the machine\n")
    (finding,) = shell.json("check", "shop:app", "--strict", "--offline", code=1)
    assert (finding["subject"], finding["level"]) == ("shop.fail", "error")


def test_check_tells_what_a_deferred_job_survives(shell: Shell) -> None:
    (shell.directory / "brief.py").write_text('from taskq import App\napp = App("memory://")\n')
    assert shell.run("check", "brief").out == "0 tasks, 0 errors, 0 warnings; jobs live in this process alone\n"


def test_doctor_tells_what_a_broker_promises_and_what_endangers_it(shell: Shell) -> None:
    told = shell.run("doctor").out
    assert re.search(r"^durability +disk$", told, re.MULTILINE)
    assert "ok: journal: wal" in told
    lines = shell.json("doctor", f"{shell.url}?synchronous=normal")
    assert {"trait": "durability", "value": "seconds"} in lines
    (weak,) = [line for line in lines if line.get("subject") == "synchronous"]
    assert (weak["level"], weak["message"]) == ("warning", "normal: a crash of the machine may lose the last seconds")
    assert weak["remedy"]


def test_doctor_fails_when_a_need_that_was_declared_cannot_be_kept(shell: Shell) -> None:
    ran = shell.run("doctor", f"{shell.url}?synchronous=off", "--durability", "disk", code=1)
    assert "error: durability: process, not disk" in ran.out
    shell.run("doctor", "--durability", "seconds")


def test_config_tells_each_value_and_where_it_came_from(shell: Shell) -> None:
    (shell.directory / "taskq.toml").write_text("slots = 7\n")
    found = {line["setting"]: (line["value"], line["source"]) for line in shell.json("config")}
    assert found["slots"] == (7, "taskq.toml")
    assert found["url"] == (shell.url, "environment")
    assert found["lease"] == (30.0, "default")
    assert shell.run("config", "--app", "shop").out.splitlines()[1].split() == ["url", shell.url, "App(...)"]


def test_config_explain_tells_what_counts_for_a_task_and_who_said_it(shell: Shell) -> None:
    (shell.directory / "taskq.toml").write_text("[defaults.mail]\ntimeout = 30\n")
    lines = shell.json("config", "explain", "shop.send", "--app", "shop")
    told = {line["option"]: (line["value"], line["source"]) for line in lines}
    assert told["queue"] == ("mail", "task")
    assert told["delivery"] == ("at_least_once", "default")
    assert told["timeout"] == (30.0, "defaults.mail.timeout (taskq.toml)")
    assert told["attempts"] == (15, "default")
    waits = told["longest waits"][0]
    assert (*waits[:3], waits[-1]) == (5.0, 10.0, 20.0, 10_800.0)
    shown = shell.run("config", "explain", "shop.send", TASKQ_APP="shop").out
    assert re.search(r"^timeout +30\.0 +defaults\.mail\.timeout \(taskq\.toml\)$", shown, re.MULTILINE)
    assert "Missing option '--app'" in shell.run("config", "explain", "shop.send", code=2).err


def test_config_shows_no_password(shell: Shell) -> None:
    ran = shell.run("config", TASKQ_URL="redis://user:secret@host/0", TASKQ_OUTBOX="postgresql://user:secret@db/shop")
    assert "redis://user:***@host/0" in ran.out
    assert "postgresql://user:***@db/shop" in ran.out
    assert "secret" not in ran.out


def test_demo_ends_every_job_by_itself(shell: Shell) -> None:
    (counts,) = shell.json("demo")
    assert counts["ended"] == 200 == counts["returned"] + counts["failed"]
    assert counts["retries"] > 0
    assert counts["failed"] > 0


def test_demo_draws_its_queues_on_a_terminal_and_tells_how_to_go_on(shell: Shell) -> None:
    printed = shell.on_terminal("demo")
    assert "█" in printed
    assert "taskq worker shop:app" in printed


def test_version_is_that_of_the_package(shell: Shell) -> None:
    assert shell.run("--version").out == f"taskq {version('taskq-async')}\n"


def test_help_documents_the_exit_codes(shell: Shell) -> None:
    assert "3    the broker cannot be reached" in shell.run("--help").out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["worker", "nosuch:app"], 2, "there is no module 'nosuch'"),
        (["worker", "shop:nosuch"], 2, "module 'shop': no 'nosuch' (apps in it: shop:app)"),
        (["worker", "shop:send"], 2, "'send' is no taskq.App but Task (apps in it: shop:app)"),
        (["worker", "shop.py:"], 2, "there is no module 'shop.py'"),
        (["worker", "./shop.py"], 2, "names no app: write MODULE:app"),
        (["worker", "shop", "--slots", "0"], 2, "0 is not in the range x>=1"),
        (["worker", "shop", "--queues", "a,,b"], 2, "'' fits no queue"),
        (["worker"], 2, "Missing argument 'MODULE:app'"),
        (["stats", "--url", "nosuch://host"], 2, "no backend answers to nosuch://"),
        (["stats", "--url", "sqlite:////no/such/directory/queue.db"], 1, "the file cannot be opened"),
        (["stats", "--nosuch"], 2, "No such option"),
        (["pause", "a b"], 2, "queue name 'a b'"),
        (["nosuch"], 2, "No such command 'nosuch'"),
        (["retry", "some-id"], 2, "No such command 'retry'. Here it is `taskq dead revive`. (see"),
        (["dead", "retry"], 2, "No such command 'retry'. Here it is `taskq dead revive`. (see"),
        (["schedules", "delete"], 2, "No such command 'delete'. (see"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(shell: Shell, arguments: list[str], code: int, words: str) -> None:
    ran = shell.run(*arguments, code=code)
    assert words in ran.err
    assert ran.err.count("\n") == 1


def test_a_setting_that_makes_no_sense_is_told_in_a_line(shell: Shell) -> None:
    ran = shell.run("worker", "shop", code=2, TASKQ_SLOTS="many")
    assert "setting 'slots' (environment)" in ran.err
    assert ran.err.count("\n") == 1


def test_a_broken_module_is_shown_with_its_own_traceback(shell: Shell) -> None:
    (shell.directory / "broken.py").write_text("import shop\n1 / 0\n")
    ran = shell.run("check", "broken", code=2)
    assert ran.err.startswith("taskq: importing broken failed\nTraceback")
    assert "line 2, in <module>\n    1 / 0" in ran.err
    assert "taskq/cli" not in ran.err


def test_json_of_every_list_is_an_object_a_line(shell: Shell) -> None:
    shell.enqueue(job("1"), job("2"))
    printed = shell.run("jobs", "mail", "--json").out
    assert [json.loads(line)["id"] for line in printed.splitlines()] == ["1", "2"]
