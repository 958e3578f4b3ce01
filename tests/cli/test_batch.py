"""``taskq batch``."""

import anyio

from taskq import App
from tests.cli.shell import Shell

SAID = "  Letters\n  tags: mail, eu\n"


def make(shell: Shell) -> None:
    app = App(shell.url)

    @app.task(name="shop.fail", retry=1)
    async def fail(word: str) -> None:
        raise ValueError(word)

    async def main() -> None:
        async with app:
            async with app.batch("week", description="Letters", tags=["mail", "eu"]) as batch:
                await batch.add([fail.call("a"), fail.options(delay=3600).call("b")])
            await app.run_worker(until="idle")

    anyio.run(main)


def test_a_batch_is_looked_at_and_cancelled(shell: Shell) -> None:
    make(shell)
    assert shell.run("batch", "week").out == "week: sealed; 2 members, 1 pending, 1 failed\n" + SAID
    assert shell.run("batch", "week", "--failed").out == "week.0.0\n"
    (status,) = shell.json("batch", "week", "--cancel")
    assert (status["cancelled"], status["pending"]) == (True, 1)
    shell.run("worker", "shop", "--queues", "default", "--until-idle")
    ran = shell.run("batch", "week", "--cancel", code=1)
    ended = "  ended: 1 failed, 1 cancelled\n"
    assert ran.out == "week: over, cancelled; 2 members, 0 pending, 2 failed\n" + ended + SAID


def test_batches_are_found_by_their_tag(shell: Shell) -> None:
    make(shell)
    assert shell.run("batch", "--tag", "eu").out == "week: sealed; 2 members, 1 pending, 1 failed\n" + SAID
    assert [status["id"] for status in shell.json("batch", "--tag", "mail")] == ["week"]
    assert shell.run("batch", "--tag", "none").out == ""
    for arguments in ((), ("week", "--tag", "eu"), ("--tag", "eu", "--cancel")):
        assert "give an ID" in shell.run("batch", *arguments, code=2).err


def test_a_batch_that_is_not_there_is_said_not_to_be(shell: Shell) -> None:
    assert "no such batch" in shell.run("batch", "none", code=1).err
