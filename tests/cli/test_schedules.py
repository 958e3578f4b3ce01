"""``taskq schedules``: what is due, what was decided, and what can be done about it."""

import pytest

from tests.cli.shell import Shell

SCHEDULED = """
@app.schedule("30 2 29 3 *", name="spring", tz="Europe/Berlin", args={"to": "ada"})
@app.schedule("every 10s", name="often", args={"to": "bob"})
@app.task(queue="mail", name="greet", idempotent=True)
async def greet(to: str) -> None: ...
"""


@pytest.fixture
def scheduled(shell: Shell) -> Shell:
    source = shell.directory / "shop.py"
    source.write_text(source.read_text() + SCHEDULED)
    return shell


def test_schedules_are_listed_with_what_is_known_of_them(scheduled: Shell) -> None:
    often, spring = scheduled.json("schedules", "list", "--app", "shop")
    assert (often["name"], often["when"], often["source"], often["paused"]) == ("often", "every 10 s", "code", False)
    assert (spring["task"], spring["queue"], spring["last"]) == ("greet", "mail", None)
    titles, *rows = scheduled.run("schedules", "list", "--app", "shop").out.splitlines()
    assert titles.split() == ["name", "when", "task", "next", "last"]
    assert rows[1].startswith("spring  30 2 29 3 *  greet  in ")
    assert "say --app" in scheduled.run("schedules", "list").out


def test_the_next_moments_are_those_of_the_schedules_own_clock(scheduled: Shell) -> None:
    moments = scheduled.json("schedules", "next", "spring", "--app", "shop", "-n", "20")
    # Where that is the last Sunday of March there is no half past two.
    assert {moment["local"][4:] for moment in moments} <= {
        "-03-29 02:30:00+01:00",
        "-03-29 02:30:00+02:00",
        "-03-29 03:00:00+02:00",
    }
    assert any("03:00:00" in moment["local"] for moment in moments)
    assert len(scheduled.run("schedules", "next", "often", "--app", "shop").out.splitlines()) == 10


def test_what_is_done_by_hand_stands_in_the_history(scheduled: Shell) -> None:
    told = scheduled.run("schedules", "history", "often", "--app", "shop").out
    assert told == "Nothing was decided about often yet.\n"
    paused = scheduled.run("schedules", "pause", "often", "--app", "shop", "--by", "ada")
    assert paused.out == "often: paused until resumed\n"
    assert [listed["paused"] for listed in scheduled.json("schedules", "list", "--app", "shop")] == [True, False]
    assert scheduled.json("schedules", "resume", "often", "--app", "shop") == [{"name": "often", "paused": False}]
    name = scheduled.run("schedules", "run", "often", "--app", "shop").out.strip()
    assert [job["id"] for job in scheduled.json("jobs", "mail")] == [name]
    history = scheduled.json("schedules", "history", "often", "--app", "shop")
    assert [decided["verdict"] for decided in history] == ["paused", "resumed", "run"]
    assert history[0]["by"] == "ada"
    assert history[1]["by"] == history[2]["by"] != "ada"
    assert "by ada" in scheduled.run("schedules", "history", "often", "--app", "shop").out


@pytest.mark.parametrize("command", ["next", "history", "pause"])
def test_an_unknown_schedule_is_not_found(scheduled: Shell, command: str) -> None:
    ran = scheduled.run("schedules", command, "oftn", "--app", "shop", code=1)
    assert "known: often, spring" in ran.err


def test_a_worker_fires_what_is_due(scheduled: Shell) -> None:
    source = scheduled.directory / "shop.py"
    source.write_text(source.read_text().replace("every 10s", "every 1s"))
    with scheduled.started("worker", "shop") as worker:
        worker.line("greet returned", "job=often@")
        worker.line("greet returned", "job=often@")
