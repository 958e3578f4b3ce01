"""``taskq logs``: what a job said, while it runs in another process and when it is dead."""

from pathlib import Path
from signal import SIGTERM

import pytest

from tests.cli.shell import Shell, job

TALK = """

@app.task(queue="talk", retry=1, capture=4000)
async def talk(gate: str) -> None:
    print("before the gate")
    await until_there(Path(gate))
    logging.getLogger("shop").warning("behind \\x1b[2J the gate")
    raise ValueError("no ink")
"""


@pytest.fixture
def talker(shell: Shell) -> Shell:
    app = shell.directory / "shop.py"
    app.write_text("import logging\n" + app.read_text() + TALK)
    shell.enqueue(job("1", "talk", task="shop.talk", body=b'{"args":{"gate":"gate"}}'))
    return shell


def test_a_running_job_is_followed_from_another_process_until_it_is_dead(talker: Shell) -> None:
    with talker.started("logs", "1", "-f") as following, talker.started("worker", "shop") as worker:
        following.line("#1 stdout  before the gate")
        Path(talker.directory, "gate").touch()
        following.line("#1 warning shop: behind  [2J the gate")
        assert following.code() == 0
        # The same line in the worker's own log has the job's id.
        worker.line("behind", "job=1", "queue=talk", "attempt=1")
        worker.send(SIGTERM)
        assert worker.code() == 0
    talker.run("dead", "purge", "1")
    # Its lines stay for a time, but which queue it was in must be said, as none is known to hold it.
    shown = talker.json("logs", "1", "--queue", "talk", "-f", "--last", "1")
    assert [line["text"] for line in shown] == ["behind \x1b[2J the gate"]


def test_a_job_of_which_nothing_is_kept_fails(talker: Shell) -> None:
    talker.enqueue(job("silent"))
    for name in ("silent", "none"):
        assert f"{name}: nothing is kept; a task that says capture=100_000" in talker.run("logs", name, code=1).err
