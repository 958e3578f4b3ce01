"""The store: a row a key, a row a member, and a row for each discarded member that may not come back."""

import sqlite3
from collections.abc import Sequence
from time import time

from msgspec import Struct

from taskq.store import Entry
from taskq_sqlite.lane import Lane
from taskq_sqlite.queries import Queries


class Key(Struct, frozen=True):
    """What a key holds beside its members."""

    value: bytes | None = None
    until: float | None = None
    """When the whole key ends."""
    lasting: int = 0
    """How many live members never lapse."""


class SqliteStore:
    """Atomic because each call is one step of a transaction."""

    def __init__(self, sql: Queries, lane: Lane, reader: Lane) -> None:
        self._sql = sql
        self._lane = lane
        self._reader = reader

    async def get(self, key: str) -> Entry:
        def step(cursor: sqlite3.Cursor) -> Entry:
            now = time()
            found = cursor.execute(self._sql.key, (key,)).fetchall()
            if not found or _is_over(found[0][1], now):
                return Entry(None, frozenset(), now)
            members = frozenset(member for (member,) in cursor.execute(self._sql.members, (key, now)))
            return Entry(found[0][0], members, now)

        return await self._reader.run(step)

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        def step(cursor: sqlite3.Cursor) -> bool:
            now = time()
            held = read(cursor, self._sql, key, now)
            if held.value != old:
                return False
            until = held.until if ttl is None else now + ttl
            write(cursor, self._sql, key, Key(new, until, held.lasting), now)
            return True

        return await self._lane.run(step)

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        def step(cursor: sqlite3.Cursor) -> bool:
            now = time()
            held = read(cursor, self._sql, key, now)
            adding, fresh, lasting = _weigh(cursor, self._sql, key, members, now, keeps=ttl is None)
            if ceiling is not None and fresh + _count(cursor, self._sql, key, held, now) > ceiling:
                return False
            until = None if ttl is None else now + ttl
            cursor.executemany(self._sql.put_member, [(key, member, until, 0) for member in adding])
            write(cursor, self._sql, key, Key(held.value, held.until, held.lasting + lasting), now)
            return True

        return await self._lane.run(step)

    async def discard(self, key: str, members: Sequence[str]) -> int:
        return await self._lane.run(lambda cursor: discard(cursor, self._sql, key, members))


def discard(cursor: sqlite3.Cursor, sql: Queries, key: str, members: Sequence[str]) -> int:
    """Remove members for good; how many are left."""
    now = time()
    held = read(cursor, sql, key, now)
    lasting = held.lasting
    if lasting and members:
        cursor.executemany(sql.discard, [(key, member) for member in members])
        lasting -= cursor.rowcount
    if _count(cursor, sql, key, Key(), now):
        cursor.executemany(sql.discard_lapsing, [(key, member, now) for member in members])
    left = Key(held.value, held.until, lasting)
    write(cursor, sql, key, left, now)
    return _count(cursor, sql, key, left, now)


def read(cursor: sqlite3.Cursor, sql: Queries, key: str, now: float) -> Key:
    """The key as it is now: one whose end has come is removed first."""
    found = cursor.execute(sql.key, (key,)).fetchall()
    if not found:
        return Key()
    held = Key(*found[0])
    if not _is_over(held.until, now):
        return held
    remove(cursor, sql, key)
    return Key()


def write(cursor: sqlite3.Cursor, sql: Queries, key: str, held: Key, now: float) -> None:
    """Keep the key if it holds anything; otherwise nothing of it remains."""
    if held.value is not None or held.lasting or _count(cursor, sql, key, held, now):
        cursor.execute(sql.put_key, (key, held.value, held.until, held.lasting))
    else:
        remove(cursor, sql, key)


def remove(cursor: sqlite3.Cursor, sql: Queries, key: str) -> None:
    cursor.execute(sql.drop_key, (key,))
    cursor.execute(sql.drop_members, (key,))


def _weigh(
    cursor: sqlite3.Cursor, sql: Queries, key: str, members: Sequence[str], now: float, *, keeps: bool
) -> tuple[list[str], int, int]:
    """Which members may be added, how many of them are not there yet, and by how many more will be lasting."""
    adding: list[str] = []
    fresh = lasting = 0
    for member in dict.fromkeys(members):
        live = False
        for until, gone in cursor.execute(sql.member, (key, member)).fetchall():
            live = not _is_over(until, now)
            if live and gone:
                break
            lasting -= live and until is None
        else:
            adding.append(member)
            fresh += not live
            lasting += keeps
    return adding, fresh, lasting


def _count(cursor: sqlite3.Cursor, sql: Queries, key: str, held: Key, now: float) -> int:
    lapsing: int = cursor.execute(sql.lapsing, (key, now)).fetchone()[0]
    return held.lasting + lapsing


def _is_over(until: float | None, now: float) -> bool:
    return until is not None and until <= now
