"""What has lapsed goes, a portion a time: readers pass over it, so that only its space waits."""

import sqlite3
from time import time

from taskq_sqlite import store
from taskq_sqlite.queries import Queries

# At a few µs a row a portion keeps others waiting for some milliseconds at most.
_PORTION = 1000


def sweep(cursor: sqlite3.Cursor, sql: Queries) -> bool:
    """Remove some of what has lapsed; true when there may be more."""
    now = time()
    portion = {"now": now, "limit": _PORTION}
    dead = cursor.execute(sql.lapse_dead, portion).fetchall()
    cursor.executemany(sql.count_lapsed, dead)
    removed = [cursor.execute(statement, portion).rowcount for statement in (sql.lapse_ended, sql.lapse_hints)]
    keys = cursor.execute(sql.lapsed_keys, portion).fetchall()
    for (key,) in keys:
        store.remove(cursor, sql, key)
    members = cursor.execute(sql.lapse_members, portion).fetchall()
    for key in {key for (key,) in members}:
        store.write(cursor, sql, key, store.read(cursor, sql, key, now), now)
    return max(*removed, len(dead), len(keys), len(members)) >= _PORTION
