"""The application's own tables. They are in the file that carries the queue, so that a transaction can hold both."""

import sqlite3
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from typing import NamedTuple

from examples.newsletter.mail import Letter

FILE = "newsletter.db"

TABLES = """
CREATE TABLE IF NOT EXISTS newsletter (id TEXT PRIMARY KEY, subject TEXT NOT NULL, sent_at TEXT);
CREATE TABLE IF NOT EXISTS mail (
    newsletter TEXT NOT NULL, recipient TEXT NOT NULL, name TEXT NOT NULL, sent_at TEXT,
    PRIMARY KEY (newsletter, recipient)
);
CREATE INDEX IF NOT EXISTS unsent ON mail (newsletter) WHERE sent_at IS NULL;
"""


class Progress(NamedTuple):
    """How far a newsletter is."""

    status: str
    mails: int
    sent: int


@contextmanager
def connected() -> Generator[sqlite3.Connection]:
    """A connection on which every statement is a transaction of its own."""
    with closing(sqlite3.connect(FILE, timeout=10, isolation_level=None)) as connection:
        yield connection


@contextmanager
def transaction() -> Generator[sqlite3.Connection]:
    """A connection in a transaction: committed at the end, rolled back by a raise."""
    with connected() as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def create_tables() -> None:
    """Create what is missing."""
    with connected() as connection:
        connection.executescript(TABLES)


def add_newsletter(connection: sqlite3.Connection, newsletter: str, subject: str) -> bool:
    """False when there is one of this name already."""
    added = connection.execute("INSERT OR IGNORE INTO newsletter (id, subject) VALUES (?, ?)", (newsletter, subject))
    return added.rowcount == 1


def add_mails(connection: sqlite3.Connection, newsletter: str, recipients: Iterable[tuple[str, str]]) -> list[str]:
    """The recipients, of (address, name), who had no mail of this newsletter yet."""
    add = "INSERT OR IGNORE INTO mail (newsletter, recipient, name) VALUES (?, ?, ?)"
    return [to for to, name in recipients if connection.execute(add, (newsletter, to, name)).rowcount]


def unsent_letter(newsletter: str, recipient: str) -> Letter | None:
    """What is to be sent; None when it has been."""
    with connected() as connection:
        found = connection.execute(
            "SELECT recipient, name, subject FROM mail JOIN newsletter ON newsletter.id = mail.newsletter"
            " WHERE newsletter = ? AND recipient = ? AND mail.sent_at IS NULL",
            (newsletter, recipient),
        ).fetchone()
    return Letter(*found) if found else None


def note_sent(newsletter: str, recipient: str) -> None:
    """One mail is sent, and with the last one the newsletter is: both at once, and each only once."""
    with transaction() as connection:
        connection.execute(
            "UPDATE mail SET sent_at = datetime() WHERE newsletter = ? AND recipient = ? AND sent_at IS NULL",
            (newsletter, recipient),
        )
        connection.execute(
            "UPDATE newsletter SET sent_at = datetime() WHERE id = ?1 AND sent_at IS NULL"
            " AND NOT EXISTS (SELECT * FROM mail WHERE newsletter = ?1 AND sent_at IS NULL)",
            (newsletter,),
        )


def progress(newsletter: str) -> Progress:
    """Nobody writes "sending" anywhere, so nobody can forget to take it back: it follows from the rows."""
    with connected() as connection:
        return Progress(
            *connection.execute(
                "SELECT CASE WHEN newsletter.sent_at IS NOT NULL THEN 'sent'"
                " WHEN count(mail.recipient) THEN 'sending' ELSE 'importing' END,"
                " count(mail.recipient), count(mail.sent_at)"
                " FROM newsletter LEFT JOIN mail ON mail.newsletter = newsletter.id WHERE newsletter.id = ?",
                (newsletter,),
            ).fetchone()
        )
