"""Twelve tasks as they are often written, each wrong in one way, and beside each the same task made right."""

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import anyio.lowlevel
from msgspec import Struct

from taskq import App, Task, current

TABLES = """
CREATE TABLE mail (recipient TEXT PRIMARY KEY, sent INT NOT NULL DEFAULT 0);
CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL);
CREATE TABLE grants (id TEXT PRIMARY KEY);
CREATE TABLE visit (user INT, day TEXT);
CREATE TABLE visit_once (user INT, day TEXT, PRIMARY KEY (user, day));
CREATE TABLE newsletter (id INT PRIMARY KEY, status TEXT NOT NULL);
INSERT INTO mail (recipient) VALUES ('ada'), ('bob');
INSERT INTO account VALUES (1, 100);
INSERT INTO newsletter VALUES (7, 'new');
"""


class World(Struct, frozen=True):
    """What the tasks change."""

    shop: sqlite3.Connection
    provider: str
    """The URL of somebody else's server."""
    directory: Path


class Pair(Struct, frozen=True):
    """A task and its corrected twin, called alike."""

    name: str
    wrong: Task[..., Any]
    right: Task[..., Any]
    args: Sequence[Any] = ()


async def post(url: str, body: str, key: str = "") -> None:
    """A POST request, as small as it can be."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"POST /charge HTTP/1.1\r\nHost: {where.hostname}\r\nContent-Length: {len(body)}\r\n"
    head += f"Idempotency-Key: {key}\r\n" if key else ""
    writer.write(f"{head}\r\n{body}".encode())
    await writer.drain()
    await reader.read()
    writer.close()
    await writer.wait_closed()


def mails(app: App, world: World) -> list[Pair]:
    """Effects at somebody else's, and a note of them at home."""
    shop = world.shop

    def sent(recipient: str) -> bool:
        ((found,),) = shop.execute("SELECT sent FROM mail WHERE recipient = ?", (recipient,)).fetchall()
        return bool(found)

    def note(recipient: str) -> None:
        with shop:
            shop.execute("UPDATE mail SET sent = 1 WHERE recipient = ?", (recipient,))

    @app.task
    async def mail_before_mark(to: str) -> None:
        if not sent(to):
            await post(world.provider, f"mail {to}")
            note(to)

    @app.task
    async def mail_under_a_key(to: str) -> None:
        if not sent(to):
            await post(world.provider, f"mail {to}", key=f"mail {to}")
            note(to)

    @app.task
    async def mark_before_mail(to: str) -> None:
        if not sent(to):
            note(to)
            await post(world.provider, f"mail {to}", key=f"mail {to}")

    @app.task
    async def new_key_each_run(cents: int) -> None:
        await post(world.provider, f"charge {cents}", key=str(uuid4()))

    @app.task
    async def one_key_for_the_job(cents: int) -> None:
        await post(world.provider, f"charge {cents}", key=current().idempotency_key)

    @app.task
    async def charges_side_by_side() -> None:
        await asyncio.gather(*(post(world.provider, f"charge {customer}") for customer in (1, 2)))

    @app.task
    async def charges_side_by_side_under_keys() -> None:
        key = current().idempotency_key
        await asyncio.gather(*(post(world.provider, f"charge {one}", key=f"{key} {one}") for one in (1, 2)))

    @app.task
    async def loop_from_the_start() -> None:
        for to in ("ada", "bob"):
            await post(world.provider, f"mail {to}")

    @app.task
    async def loop_that_goes_on() -> None:
        async for to in current().iterate(["ada", "bob"], every=1):
            await post(world.provider, f"mail {to}", key=f"mail {to}")

    @app.task
    async def charge_blindly(invoice: int) -> None:
        await post(world.provider, f"invoice {invoice}")

    async def provider_knows(invoice: int) -> bool:
        return f"invoice {invoice}" in (world.directory / "statement").read_text().splitlines()

    @app.task
    async def charge_once(invoice: int) -> None:
        async with current().once(f"invoice {invoice}", on_unknown=lambda: provider_knows(invoice)) as charge:
            if charge.needed:
                # The provider's statement stands for its API: both happen at once, or neither.
                statement = world.directory / "statement"
                statement.write_text(f"{statement.read_text()}invoice {invoice}\n")

    return [
        Pair("mail before mark", mail_before_mark, mail_under_a_key, ["ada"]),
        Pair("mark before mail", mark_before_mail, mail_under_a_key, ["ada"]),
        Pair("a new key in each run", new_key_each_run, one_key_for_the_job, [1999]),
        Pair("side by side without keys", charges_side_by_side, charges_side_by_side_under_keys),
        Pair("a loop from the start", loop_from_the_start, loop_that_goes_on),
        Pair("a charge without a key", charge_blindly, charge_once, [7]),
    ]


def rows(app: App, world: World) -> list[Pair]:
    """Effects in one's own database."""
    shop = world.shop

    @app.task
    async def counter_without_transaction(grant: str, cents: int) -> None:
        if shop.execute("SELECT 1 FROM grants WHERE id = ?", (grant,)).fetchone():
            return
        shop.execute("UPDATE account SET balance = balance + ? WHERE id = 1", (cents,))
        shop.commit()
        shop.execute("INSERT INTO grants VALUES (?)", (grant,))
        shop.commit()

    @app.task
    async def counter_in_a_transaction(grant: str, cents: int) -> None:
        with shop:
            if shop.execute("INSERT OR IGNORE INTO grants VALUES (?)", (grant,)).rowcount:
                shop.execute("UPDATE account SET balance = balance + ? WHERE id = 1", (cents,))

    @app.task
    async def insert_without_a_natural_key(user: int) -> None:
        with shop:
            shop.execute("INSERT INTO visit VALUES (?, '2026-05-01')", (user,))

    @app.task
    async def insert_under_a_natural_key(user: int) -> None:
        with shop:
            shop.execute("INSERT OR IGNORE INTO visit_once VALUES (?, '2026-05-01')", (user,))

    def say(status: str) -> None:
        with shop:
            shop.execute("UPDATE newsletter SET status = ? WHERE id = 7", (status,))

    @app.task
    async def status_that_nobody_takes_back() -> None:
        ((status,),) = shop.execute("SELECT status FROM newsletter WHERE id = 7").fetchall()
        if status != "new":
            return
        say("sending")
        try:
            await anyio.lowlevel.checkpoint()
            status = "sent"
        finally:
            say(status)

    @app.task
    async def status_that_is_derived() -> None:
        await anyio.lowlevel.checkpoint()
        say("sent")

    @app.task
    def sync_counter(cents: int) -> None:
        with shop:
            shop.execute("UPDATE account SET balance = balance + ? WHERE id = 1", (cents,))

    @app.task
    async def step_that_remembers(cents: int) -> None:
        async def balance() -> int:
            ((found,),) = shop.execute("SELECT balance FROM account WHERE id = 1").fetchall()
            return int(found)

        before = await current().step("balance", balance)
        with shop:
            shop.execute("UPDATE account SET balance = ? WHERE id = 1", (before + cents,))

    return [
        Pair("a counter without a transaction", counter_without_transaction, counter_in_a_transaction, ["g1", 50]),
        Pair("an insert without a natural key", insert_without_a_natural_key, insert_under_a_natural_key, [3]),
        Pair("a status that finally takes back", status_that_nobody_takes_back, status_that_is_derived),
        Pair("a sync counter", sync_counter, step_that_remembers, [50]),
    ]


def others(app: App, world: World) -> list[Pair]:
    """Effects in files, and other jobs."""

    @app.task
    async def append(line: str) -> None:
        with (world.directory / "report").open("a") as report:
            report.write(f"{line}\n")

    @app.task
    async def write_and_replace(line: str) -> None:
        draft = world.directory / f"report.{current().id}"
        draft.write_text(f"{line}\n")
        os.replace(draft, world.directory / "report")  # noqa: PTH105 - the word for it

    @app.task
    async def child(number: int) -> None: ...

    @app.task
    async def children() -> None:
        for number in (1, 2):
            await child.defer(number)

    @app.task
    async def children_under_ids() -> None:
        for number in (1, 2):
            await child.options(id=f"{current().id}.{number}").defer(number)

    return [
        Pair("a file that is appended to", append, write_and_replace, ["one"]),
        Pair("children deferred twice", children, children_under_ids),
    ]


def pairs(world: World) -> dict[str, Pair]:
    """All of them, by name."""
    app = App("memory://")
    return {pair.name: pair for pair in (*mails(app, world), *rows(app, world), *others(app, world))}
