"""``taskq outbox``: what a transaction of another database deferred reaches the broker."""

import sqlite3
from contextlib import closing
from signal import SIGTERM

import anyio

from taskq import App
from tests.cli.shell import Shell


def test_what_was_committed_is_handed_over_until_asked_to_stop(shell: Shell) -> None:
    orders = shell.directory / "orders.db"
    (shell.directory / "taskq.toml").write_text(f'outbox = "sqlite:///{orders}"')

    async def defer() -> str:
        app = App(shell.url, outbox=f"sqlite:///{orders}")

        @app.task(name="shop.send", queue="mail")
        async def send(to: str) -> None: ...

        async with app:
            with closing(sqlite3.connect(orders, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                job = await send.options(tx=connection).defer("ada")
                connection.execute("COMMIT")
        return job.id

    name = anyio.run(defer)
    with shell.started("outbox", "shop") as relay:
        while not shell.json("jobs", "mail"):
            pass
        assert [job["id"] for job in shell.json("jobs", "mail")] == [name]
        relay.send(SIGTERM)
        assert relay.code() == 0


def test_an_app_without_an_outbox_is_told_so(shell: Shell) -> None:
    assert "TASKQ_OUTBOX" in shell.run("outbox", "shop", code=2).err
