"""The application's own table: which newsletters are sent. It stands in the queue's file, and could stand elsewhere."""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager

FILE = "newsletter.db"


@contextmanager
def _connected() -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(FILE, timeout=10)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS sent (newsletter TEXT PRIMARY KEY, at TEXT NOT NULL)")
        yield connection


def note_sent(newsletter: str) -> None:
    """All its mails are out; said twice, it is said once."""
    with _connected() as connection:
        connection.execute("INSERT OR IGNORE INTO sent VALUES (?, datetime())", (newsletter,))


def is_sent(newsletter: str) -> bool:
    """Whether all its mails are out."""
    with _connected() as connection:
        return connection.execute("SELECT 1 FROM sent WHERE newsletter = ?", (newsletter,)).fetchone() is not None
