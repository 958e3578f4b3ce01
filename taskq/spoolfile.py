"""The file of a spool: lines in the order in which they came, bounded, shared by processes, one of which hands over.

What is to be collected lies apart, by key: no job runs before or after it.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import takewhile
from time import time
from typing import Any

import msgspec
from msgspec import Struct

from taskq.errors import ConfigError
from taskq.job import Job

STAGE = "taskq-stage"
"""The task of what is no job, but a stage in which a batch is made."""
_PART = 500
"""Lines handed over in one call."""
_PAGE = 4 << 20
"""Bytes of them, from which on no further one is read."""
_LOT = 1000
"""Items of a key that are handed over together at most."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS taskq_spool (
  place INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, bytes INTEGER NOT NULL, job BLOB NOT NULL, refused TEXT
);
CREATE TABLE IF NOT EXISTS taskq_spool_items (
  place INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, bytes INTEGER NOT NULL, item BLOB NOT NULL,
  key TEXT NOT NULL, id TEXT NOT NULL, refused TEXT
);
CREATE INDEX IF NOT EXISTS taskq_spool_keys ON taskq_spool_items (key, place) WHERE refused IS NULL;
"""
_PUT = "INSERT INTO taskq_spool (at, bytes, job) VALUES (?, ?, ?)"
_PUT_ITEM = "INSERT INTO taskq_spool_items (at, bytes, item, key, id) VALUES (?, ?, ?, ?, ?)"
_WAITING = """
SELECT coalesce(sum(bytes), 0), min(at) FROM (
  SELECT bytes, at FROM taskq_spool WHERE refused IS NULL
  UNION ALL SELECT bytes, at FROM taskq_spool_items WHERE refused IS NULL
)
"""
_HOLDS = """
SELECT EXISTS (SELECT 1 FROM taskq_spool WHERE refused IS NULL)
  OR EXISTS (SELECT 1 FROM taskq_spool_items WHERE refused IS NULL)
"""
_KEYS = """
SELECT DISTINCT key FROM (SELECT key FROM taskq_spool_items WHERE refused IS NULL ORDER BY place LIMIT ?)
"""
_ITEMS = "SELECT place, at, id, item FROM taskq_spool_items WHERE key = ? AND refused IS NULL ORDER BY place LIMIT ?"
_REFUSED = """
SELECT refused FROM taskq_spool WHERE refused NOTNULL
UNION ALL SELECT refused FROM taskq_spool_items WHERE refused NOTNULL
"""


class Row(Struct, frozen=True):
    """One line of the file."""

    place: int
    at: float
    job: Job

    @property
    def is_stage(self) -> bool:
        """Whether it is no job."""
        return self.job.task == STAGE


class Refusal(Struct, frozen=True):
    """Why the broker did not take a line, and what of it."""

    place: int
    reason: str
    job: Job


class Lot(Struct, frozen=True):
    """The oldest items of a key."""

    key: str
    at: float
    """When the first of them came."""
    places: Sequence[int]
    items: Mapping[str, bytes]
    """By their ids, in their order."""


class Bounds(Struct, frozen=True):
    """How much a spool takes before it refuses."""

    size: int
    """Bytes of jobs."""
    age: float
    """Seconds since the oldest job came."""


class SpoolFile:
    """The jobs in the file, oldest first. Its calls block, and are made in threads."""

    def __init__(self, path: str, bounds: Bounds) -> None:
        self._path = path
        self._bounds = bounds
        try:
            self._connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
            # Written through to the system, if not to the disk: that outlives the process.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
            self._connection.execute("PRAGMA user_version = 1")
            self._turn = sqlite3.connect(f"{path}.turn", timeout=0.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise ConfigError(
                f"the spool {path} cannot be written ({error}): name a file in a directory that this user may write"
            ) from error

    def put(self, jobs: Sequence[Job]) -> str | None:
        """Keep all of these or none; the answer says why none."""
        rows = list(map(msgspec.msgpack.encode, jobs))
        return self._put(_PUT, [(len(row), row) for row in rows])

    def put_items(self, key: str, items: Mapping[str, bytes]) -> str | None:
        """As :meth:`put`, what is to be collected under a key, by its ids."""
        return self._put(_PUT_ITEM, [(len(item), item, key, name) for name, item in items.items()])

    def _put(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> str | None:
        """Rows that begin with their size."""
        now = time()
        with self._connection as held:
            held.execute("BEGIN IMMEDIATE")
            size, oldest = held.execute(_WAITING).fetchone()
            if size + sum(row[0] for row in rows) > self._bounds.size:
                return f"the broker is out of reach, and the spool {self._path} holds {size:,} bytes already"
            if oldest is not None and now - oldest > self._bounds.age:
                return f"the broker has been out of reach for {now - oldest:,.0f} s, longer than the spool waits"
            held.executemany(statement, [(now, *row) for row in rows])
        return None

    def holds(self) -> bool:
        """Whether there is anything to hand over."""
        (holds,) = self._connection.execute(_HOLDS).fetchone()
        return bool(holds)

    def first(self) -> list[Row]:
        """The oldest lines that are handed over together: jobs, or a single stage."""
        rows: list[Row] = []
        size = 0
        found = self._connection.execute(
            "SELECT place, at, bytes, job FROM taskq_spool WHERE refused IS NULL ORDER BY place LIMIT ?", (_PART,)
        )
        for place, at, taken, encoded in found:
            rows.append(Row(place, at, msgspec.msgpack.decode(encoded, type=Job)))
            size += taken
            if size > _PAGE:
                break
        found.close()
        return rows[:1] if rows and rows[0].is_stage else list(takewhile(lambda row: not row.is_stage, rows))

    def lots(self) -> list[Lot]:
        """The oldest items that are to be collected, with the next ones of their keys."""
        found: list[Lot] = []
        size = 0
        for (key,) in self._connection.execute(_KEYS, (_PART,)).fetchall():
            rows = self._connection.execute(_ITEMS, (key, _LOT)).fetchall()
            found.append(Lot(key, rows[0][1], [row[0] for row in rows], {row[2]: row[3] for row in rows}))
            size += sum(len(row[3]) for row in rows)
            if size > _PAGE:
                break
        return found

    def gathered(self, lot: Lot, count: int, job: Job | None) -> None:
        """Put a job in the place of the first items of a lot: it has waited for as long as they have."""
        gone = [(place,) for place in lot.places[:count]]
        with self._connection as held:
            held.execute("BEGIN IMMEDIATE")
            held.executemany("DELETE FROM taskq_spool_items WHERE place = ?", gone)
            if job is not None:
                encoded = msgspec.msgpack.encode(job)
                held.execute(_PUT, (lot.at, len(encoded), encoded))

    def refuse(self, lot: Lot, reason: str) -> None:
        """Let a lot stay, with the reason, for a person to look at."""
        rows = [(reason, place) for place in lot.places]
        with self._connection as held:
            held.execute("BEGIN IMMEDIATE")
            held.executemany("UPDATE taskq_spool_items SET refused = ? WHERE place = ?", rows)

    def refused(self) -> list[str]:
        """Why the broker did not take what is still here."""
        return [reason for (reason,) in self._connection.execute(_REFUSED)]

    def settle(self, gone: Sequence[int], refused: Sequence[Refusal]) -> None:
        """Forget what was handed over; what was refused stays, with the reason, for a person to look at."""
        with self._connection as held:
            held.execute("BEGIN IMMEDIATE")
            held.executemany("DELETE FROM taskq_spool WHERE place = ?", [(place,) for place in gone])
            lines = [(each.reason, msgspec.msgpack.encode(each.job), each.place) for each in refused]
            held.executemany("UPDATE taskq_spool SET refused = ?, job = ? WHERE place = ?", lines)

    def take_turn(self) -> bool:
        """Whether this process is the one to hand over; so it is until :meth:`end_turn`, or until it dies."""
        try:
            self._turn.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return False
        return True

    def end_turn(self) -> None:
        """Let another process hand over."""
        if self._turn.in_transaction:
            self._turn.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file."""
        self._turn.close()
        self._connection.close()
