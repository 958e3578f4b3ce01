"""``taskq dead``: dead letters are found by what they have in common, and dealt with whole."""

import re
from signal import SIGINT

import msgspec
import pytest

from taskq.broker import Record
from taskq.cli.dead_letters import PAGE, Selection, select, walk
from taskq.connect import connect
from taskq.report import Ended, ErrorReport
from tests.cli.shell import Shell, bury, job

REPORT = ErrorReport("ConnectionError", "smtp is away", attempt=3, at=0.0, fingerprint="cafe")
RECORD = Record(
    job=job("5", "mail", tenant="acme", headers={"taskq-tags": "eu,bulk"}),
    state="dead",
    attempt=3,
    losses=0,
    due=1000.0,
    outcome=msgspec.json.encode(Ended("failed", errors=[REPORT])),
)


@pytest.mark.parametrize(
    ("fitting", "other"),
    [
        (Selection(), Selection(queues=["news"])),
        (Selection(queues=["news", "mail"]), Selection(queues=["mai"])),
        (Selection(task="shop.send"), Selection(task="send")),
        (Selection(error="smtp"), Selection(error="disk")),
        (Selection(error="ConnectionError: smtp"), Selection(error="smtp:")),
        (Selection(fingerprint="cafe"), Selection(fingerprint="caf")),
        (Selection(older_than=50.0), Selection(older_than=150.0)),
        (Selection(tenant="acme"), Selection(tenant="other")),
        (Selection(tag="bulk"), Selection(tag="bul")),
        (Selection(after="4"), Selection(after="5")),
    ],
)
def test_a_selection_takes_what_fits_all_that_is_said(fitting: Selection, other: Selection) -> None:
    assert fitting.fits(RECORD, now=1100.0)
    assert not other.fits(RECORD, now=1100.0)


@pytest.mark.anyio
async def test_a_walk_meets_every_dead_letter_of_all_queues_once_by_rising_id() -> None:
    async with connect("memory://") as backend:
        assert backend.admin is not None
        jobs = [job(f"{number:05}", ("mail", "news", "other")[number % 3]) for number in range(3 * PAGE + 7)]
        await backend.broker.enqueue(jobs)
        await bury(backend, jobs, "ValueError: no")
        met = [record.job.id async for record in walk(backend.admin, Selection())]
        assert met == sorted(each.id for each in jobs)
        behind = [record.job.id async for record in walk(backend.admin, Selection(queues=["news"], after="01000"))]
        assert behind == [each.id for each in jobs if each.queue == "news" and each.id > "01000"]
        few = [record.job.id async for record in select(backend.admin, Selection(limit=2), 0.0, lambda: None)]
        assert few == met[:2]


def test_dead_letters_are_listed_with_their_errors(shell: Shell) -> None:
    shell.bury(job("1"), job("2", "news"), error="OSError: disk full")
    shell.bury(job("3"))
    assert [letter["id"] for letter in shell.json("dead", "list", "--error", "disk")] == ["1", "2"]
    assert [letter["id"] for letter in shell.json("dead", "list", "3", "1")] == ["1", "3"]
    titles, *rows = shell.run("dead", "list", "--limit", "1").out.splitlines()
    assert titles.split() == ["id", "queue", "task", "end", "died", "error"]
    assert [row.split()[:4] for row in rows] == [["1", "mail", "shop.send", "failed"]]
    assert shell.run("dead", "list", "--older-than", "30d").out == "No dead letter fits.\n"


def test_revived_dead_letters_run_again(shell: Shell) -> None:
    shell.bury(job("1"), job("2"), error="OSError: disk full")
    shell.bury(job("3"))
    assert shell.run("dead", "revive", "--error", "disk").out == "2 revived\n"
    ran = shell.run("worker", "shop", "--until-idle")
    assert ran.err.count("shop.send returned") == 2
    assert [letter["id"] for letter in shell.json("dead", "list")] == ["3"]


def test_a_revival_that_meets_a_held_key_is_told_and_fails(shell: Shell) -> None:
    shell.bury(job("1", unique="ada"), job("2"))
    shell.enqueue(job("3", unique="ada"))
    assert shell.json("dead", "revive", "1", "2", "none", code=1) == [
        {"id": "1", "queue": "mail", "answer": "conflict"},
        {"id": "2", "queue": "mail", "answer": "revived"},
    ]
    again = shell.run("dead", "revive", "1", "none", code=1)
    assert again.out == "1 conflict, 1 unknown\n"
    assert again.err == "unknown: no dead letter has that id; `taskq explain ID` tells where a job is\n"
    assert (
        shell.run("dead", "revive", "--task", "none").out == "No dead letter fits: `taskq dead list` shows them all.\n"
    )


def test_purged_dead_letters_are_gone(shell: Shell) -> None:
    shell.bury(job("1"), job("2", tenant="acme"), job("3", tenant="acme"))
    dry = shell.run("dead", "purge", "--tenant", "acme", "--dry-run")
    assert dry.out.endswith("Would purge 2.\n")
    assert shell.run("dead", "purge", "--tenant", "acme", "--limit", "1").out == "1 purged\n"
    assert shell.run("dead", "purge", "--tenant", "acme", "--after", "2").out == "1 purged\n"
    assert [letter["id"] for letter in shell.json("dead", "list")] == ["1"]


@pytest.mark.parametrize("verb", ["revive", "purge"])
def test_every_dead_letter_is_meant_only_when_that_is_said(shell: Shell, verb: str) -> None:
    shell.bury(job("1"), job("2"))
    assert "say which, or --all" in shell.run("dead", verb, "--limit", "1", code=2).err
    assert shell.run("dead", verb, "--all").out == f"2 {verb}d\n"


def test_an_interrupted_revival_tells_where_to_go_on(shell: Shell) -> None:
    shell.bury(*(job(str(number)) for number in range(1, 10)))
    with shell.started("dead", "revive", "--all", "--rate", "1/h", "--json") as revival:
        # What the file says is known to others before the program itself has counted it.
        revival.line('"id":"1"')
        revival.send(SIGINT)
        revival.line("stopped after 1: go on with --after 1")
        assert revival.code() == 130
    assert shell.run("dead", "revive", "--all", "--after", "1").out == "8 revived\n"


def test_much_work_on_a_terminal_shows_how_far_it_is(shell: Shell) -> None:
    shell.bury(*(job(f"{number:04}") for number in range(1000)))
    printed = shell.on_terminal("dead", "purge", "--all")
    assert re.search("purge \x1b[^━]*━", printed)
    assert "1000 purged" in printed
