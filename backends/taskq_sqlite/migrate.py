"""Numbered steps that bring a file's tables to this version: forward only, in one transaction."""

import sqlite3
from collections.abc import Iterator
from importlib.resources import files

from taskq.errors import SchemaOutdated


def migrations() -> dict[int, str]:
    """Each step's SQL by its number."""
    folder = files("taskq_sqlite") / "migrations"
    found = {file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".sql")}
    return {int(name.partition("_")[0]): found[name] for name in sorted(found)}


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Carry out the steps that the file lacks. Processes that open it at once wait for each other.

    Raises SchemaOutdated for a file that a newer version has written.
    """
    steps = migrations()
    newest = max(steps)
    if _version(connection, path, newest) == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection, path, newest)
        for number, script in steps.items():
            if number > version:
                for statement in statements(script):
                    connection.execute(statement)
                connection.execute("INSERT INTO taskq_migrations (version) VALUES (?)", (number,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def statements(script: str) -> Iterator[str]:
    """The statements of a script: ``executescript`` would commit before the first of them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _version(connection: sqlite3.Connection, path: str, newest: int) -> int:
    exists = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'taskq_migrations'"
    if connection.execute(exists).fetchone() is None:
        return 0
    version: int = connection.execute("SELECT coalesce(max(version), 0) FROM taskq_migrations").fetchone()[0]
    if version > newest:
        raise SchemaOutdated(
            f"{path} has tables of version {version}, and this taskq knows them up to {newest}: upgrade taskq"
        )
    return version
