"""``taskq top`` in a real terminal: it shows, and obeys its keys."""

import pytest

from tests.cli.shell import Shell, job
from tests.cli.terminal import terminal

DOWN, TAB = "\x1b[B", "\t"


def test_it_shows_queues_workers_and_jobs_and_acts_on_them(shell: Shell) -> None:
    shell.bury(job("broken", "bad"))
    shell.enqueue(job("long", "slow", task="shop.wait_for", body=b'{"args":{"gate":"never"}}'))
    with (
        shell.started("worker", "shop", "--queues", "slow,mail") as worker,
        terminal("top", directory=str(shell.directory), environment={"TASKQ_URL": shell.url}) as screen,
    ):
        screen.shows("bad", "1")
        screen.shows("working", "1/100", "slow,mail", "shop.wait_for")
        screen.shows("long", "shop.wait_for", "slow")
        screen.shows("broken", "shop.send", "ValueError")

        screen.press("p")
        screen.shows("bad", "paused")
        screen.press("p")

        screen.press(TAB + "w")
        worker.line("asked by an operator: quiet")
        screen.shows("quiet", "1/100")
        screen.press("w")
        worker.line("asked by an operator: resume")

        screen.press(TAB + "c")
        worker.line("shop.wait_for ended: cancelled")
        screen.shows("working", "0/100")

        screen.press(TAB + "r")
        screen.clears("broken", "ValueError")
        screen.press("q")
        assert screen.code() == 0
    (revived,) = shell.json("jobs", "bad")
    assert (revived["id"], revived["state"]) == ("broken", "ready")


def test_elsewhere_than_on_a_terminal_it_says_what_to_use(shell: Shell) -> None:
    assert "taskq stats" in shell.run("top", code=2).err


def test_a_broker_that_is_not_there_ends_it_with_a_sentence(shell: Shell) -> None:
    with terminal("top", "--url", "rabbit://x", directory=str(shell.directory), environment={}) as screen:
        screen.shows("no backend answers to rabbit://")
        assert screen.code() == 2


pytestmark = pytest.mark.timeout(180)
