"""The newsletter, played as a newcomer plays it: from nothing, without a terminal."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.newsletter.__main__ import Figures
from examples.newsletter.app import app, import_recipients, publish
from examples.newsletter.web import Progress, progress

ROOT = Path(__file__).parents[2]
KILLS, RECIPIENTS = 3, 1000

GOOD = Figures(
    invited=["a@example.org", "b@example.org"],
    deferred=2,
    added_again=0,
    kills=1,
    rescued=1,
    deliveries=3,
    received=["b@example.org", "a@example.org"],
    status="sent",
)


def figure(output: str, name: str) -> str:
    found = re.search(rf"^{name}  +(\S+)$", output, re.MULTILINE)
    assert found is not None, f"no figure is called {name!r} in:\n{output}"
    return found[1]


def test_each_recipient_gets_one_mail_though_the_worker_is_killed_again_and_again() -> None:
    show = subprocess.run(
        [sys.executable, "-m", "examples.newsletter"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert show.returncode == 0, show.stdout + show.stderr
    assert show.stdout.count("worker killed at") == KILLS
    assert "a second click changed nothing" in show.stdout
    assert {
        name: figure(show.stdout, name)
        for name in ("recipients", "mail jobs deferred", "added by a second import", "mails", "status")
    } == {
        "recipients": str(RECIPIENTS),
        "mail jobs deferred": str(RECIPIENTS),
        "added by a second import": "0",
        "mails": str(RECIPIENTS),
        "status": "sent",
    }
    assert int(figure(show.stdout, "jobs rescued from them")) > 0
    deliveries, caught = (
        int(figure(show.stdout, name)) for name in ("deliveries at the provider", "caught there by their key")
    )
    assert deliveries == RECIPIENTS + caught


@pytest.mark.anyio
async def test_its_status_follows_from_who_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with app:
        assert await progress("june") == Progress("draft")
        await publish("june", "News of June")
        assert await progress("june") == Progress("importing")
        await app.run_worker(queues=["import"], until="idle")
        assert await progress("june") == Progress("sending", RECIPIENTS, 0)
        await app.batch("june").cancel()
        await app.run_worker(until="idle")
        # Nobody is at it, so nobody is said to be.
        assert await progress("june") == Progress("failed", RECIPIENTS, 0)
        await publish("july", "News of July")
        await app.cancel(import_recipients.handle("import-july").ref)
        await app.run_worker(until="idle")
        assert await progress("july") == Progress("draft")


def test_the_show_believes_good_figures() -> None:
    assert GOOD.proven


@pytest.mark.parametrize(
    "wrong",
    [
        GOOD._replace(received=["a@example.org"]),
        GOOD._replace(received=["a@example.org", "b@example.org", "b@example.org"]),
        GOOD._replace(received=["a@example.org", "a@example.org"]),
        GOOD._replace(added_again=1),
        GOOD._replace(deferred=3),
        GOOD._replace(kills=0),
        GOOD._replace(status="sending"),
    ],
)
def test_the_show_notices_a_lost_mail_a_mail_too_many_and_a_wrong_status(wrong: Figures) -> None:
    assert not wrong.proven
