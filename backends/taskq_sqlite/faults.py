"""Every error of the driver as an error of the tree, with a sentence that names the remedy."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from errno import EACCES

from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable

# By primary result code; https://sqlite.org/rescode.html tells what each means.
PASSING = {
    sqlite3.SQLITE_BUSY: "another process holds the write lock; try again, or raise busy_timeout",
    sqlite3.SQLITE_LOCKED: "another connection of this process holds a table; try again",
    sqlite3.SQLITE_FULL: "the disk, or the size the file may have, is full: free some space",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write",
    sqlite3.SQLITE_NOMEM: "no memory was left",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
    sqlite3.SQLITE_ABORT: "the statement was aborted by a rollback",
    sqlite3.SQLITE_PROTOCOL: "too many processes opened the file at once",
    sqlite3.SQLITE_SCHEMA: "the schema changed under the statement",
}
LASTING = {
    sqlite3.SQLITE_ERROR: "the file lacks what taskq needs, or the statement does not fit it",
    sqlite3.SQLITE_INTERNAL: "SQLite found a defect in itself",
    sqlite3.SQLITE_PERM: "the file's permissions forbid it: let this user read and write the file",
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only: let this user write both",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore it from a copy",
    sqlite3.SQLITE_NOTFOUND: "SQLite lacks a feature that taskq needs",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened: its directory must exist and be writable for this user",
    sqlite3.SQLITE_EMPTY: "SQLite reports an unused code",
    sqlite3.SQLITE_TOOBIG: "a value is larger than SQLite takes",
    sqlite3.SQLITE_CONSTRAINT: "a value breaks a rule of the schema",
    sqlite3.SQLITE_MISMATCH: "a value has a type the schema does not take",
    sqlite3.SQLITE_MISUSE: "the connection was used in a way SQLite forbids",
    sqlite3.SQLITE_NOLFS: "this system cannot hold a file of this size",
    sqlite3.SQLITE_AUTH: "the connection's authorizer forbids it",
    sqlite3.SQLITE_FORMAT: "SQLite reports an unused code",
    sqlite3.SQLITE_RANGE: "a statement got too many parameters",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database: give another path, or move the file away",
}

DRIVER_ERRORS = (sqlite3.Error, UnicodeEncodeError, OverflowError)
"""What the driver raises: the last two for a text or a number that no column can hold."""


def translated(error: Exception, path: str) -> BrokerError:
    """The error a caller sees for what the driver raised; the driver's own stays its cause."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    # Without a code the error is of the Python driver: a closed connection, or a value it cannot carry.
    lacking = sqlite3.SQLITE_MISUSE if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_MISMATCH
    primary = lacking if code is None else code & 0xFF
    passing = PASSING.get(primary)
    kind = BrokerRejected if passing is None else BrokerUnavailable
    remedy = passing or LASTING.get(primary, "see the cause")
    found = kind(f"{path}: {remedy} ({error})")
    found.__cause__ = error
    return found


def refuse_read_only(path: str) -> None:
    """SQLite opens a file it may not write for reading, and says so only at the first write."""
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        denied = PermissionError(EACCES, os.strerror(EACCES), path)
        raise BrokerRejected(f"{path}: {LASTING[sqlite3.SQLITE_READONLY]}") from denied


def is_busy(error: sqlite3.Error) -> bool:
    """Another process holds the write lock."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


@contextmanager
def translating(path: str) -> Generator[None]:
    """Let what the driver raises inside leave as an error of the tree."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translated(error, path) from error
