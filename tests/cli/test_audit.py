"""``taskq audit``: who did what by hand, noted before it is done."""

from getpass import getuser
from pathlib import Path
from socket import gethostname

import anyio
import msgspec
import pytest
from click.testing import CliRunner

from taskq import App
from taskq.cli import program
from tests.cli.shell import Shell, job


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TASKQ_URL", f"sqlite:///{tmp_path / 'queue.db'}")
    return f"sqlite:///{tmp_path / 'queue.db'}"


def taskq(*arguments: str) -> str:
    """What a command says, run in this process: a command of its own takes most of a second to begin."""
    return CliRunner().invoke(program, arguments).output


def acts(*arguments: str) -> list[dict[str, str]]:
    return [msgspec.json.decode(line) for line in taskq("audit", "--json", *arguments).splitlines()]


def test_what_is_done_by_hand_is_told_with_who_did_it(url: str, tmp_path: Path) -> None:
    assert taskq("audit") == "Nothing was done by hand in the last 7 d.\n"
    Shell(tmp_path, url).bury(job("dead"), job("sad"))
    taskq("pause", "mail", "--tag", "bulk", "--for", "10m", "--by", "ada")
    taskq("resume", "mail", "--by", "bob")
    taskq("cancel", "1", "--by", "ada")
    taskq("batch", "may", "--cancel", "--by", "ada")
    taskq("workers", "ask", "quiet", "w1", "--by", "ada")
    taskq("dead", "revive", "dead", "--by", "ada")
    taskq("dead", "purge", "--queue", "mail", "--older-than", "0", "--task", "shop.send", "--by", "eve")
    taskq("dead", "purge", "--all", "--dry-run", "--by", "nobody")
    assert [(act["by"], act["verb"], act["what"], act["details"]) for act in acts()] == [
        ("ada", "pause", "queue mail", "for 600 s"),
        ("ada", "pause", "tag bulk", "for 600 s"),
        ("bob", "resume", "queue mail", ""),
        ("ada", "cancel", "job 1", ""),
        ("ada", "cancel", "batch may", ""),
        ("ada", "quiet", "worker w1", ""),
        ("ada", "revive", "dead letter dead", ""),
        ("eve", "purge", "dead letters", "queue mail, task shop.send"),
    ]
    titles, line = taskq("audit", "--about", "worker").splitlines()
    assert titles.split() == ["when", "by", "did", "to"]
    assert line.split()[2:] == ["ada", "quiet", "worker", "w1"]


def test_who_does_not_say_who_they_are_is_known_by_their_account(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert taskq("pause", "mail", "--url", url) == "mail: paused until resumed\n"
    monkeypatch.setenv("TASKQ_BY", "the night shift")
    taskq("resume", "mail")
    assert [act["by"] for act in acts()] == [f"{getuser()}@{gethostname()}", "the night shift"]


def test_who_removed_a_schedule_is_told_when_it_is_missed(url: str) -> None:
    app = App(url)

    @app.task
    async def report() -> None: ...

    async def make() -> None:
        async with app:
            await app.schedules.create("daily", report.call(), "0 3 * * *", by="ada")

    anyio.run(make)
    assert taskq("schedules", "remove", "daily", "--by", "bob") == "daily: removed\n"
    assert "; bob removed it at 2" in taskq("schedules", "history", "daily")
    assert [act["verb"] for act in acts("--about", "daily")] == ["create", "remove"]
