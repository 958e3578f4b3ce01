"""How jobs go out: time's moves first, then the front of each queue's line is leased."""

import sqlite3
from bisect import insort
from collections.abc import Sequence
from secrets import randbits

from msgspec import json

from taskq.job import Delivery
from taskq_sqlite.groups import advance, show
from taskq_sqlite.queries import Queries
from taskq_sqlite.rows import Row, delivery_of, is_tenant, rows_of


def fetch(
    cursor: sqlite3.Cursor, sql: Queries, queues: Sequence[str], limit: int, *, lease: float, now: float
) -> list[Delivery]:
    """Lease up to ``limit`` jobs of the queues, in the order given."""
    token = randbits(63)
    taken: list[Row] = []
    for queue in queues:
        if len(taken) < limit:
            advance(cursor, sql, queue, now)
            taken += _take(cursor, sql, queue, limit - len(taken), token, now + lease)
    return [delivery_of(row, token, now) for row in taken]


def _take(cursor: sqlite3.Cursor, sql: Queries, queue: str, limit: int, token: int, until: float) -> list[Row]:
    line = _front(cursor, sql, queue, limit)
    if any(row.group is not None for row in line):
        line = _take_in_turn(cursor, sql, line, limit, token, until)
    _lease(cursor, sql, [row for row in line if row.group is None], token, until)
    return line


def _front(cursor: sqlite3.Cursor, sql: Queries, queue: str, limit: int) -> list[Row]:
    try:
        return rows_of(*cursor.execute(sql.front, (queue, limit)).fetchone())
    except sqlite3.DataError:
        # Together they are more than one value can hold, a gigabyte.
        if limit == 1:
            raise
        return _front(cursor, sql, queue, limit // 2)


def _take_in_turn(
    cursor: sqlite3.Cursor, sql: Queries, line: list[Row], limit: int, token: int, until: float
) -> list[Row]:
    """Lease the grouped rows one by one: each shows the next of its group, which may stand before the rest."""
    taken: list[Row] = []
    while line and len(taken) < limit:
        row = line.pop(0)
        taken.append(row)
        if row.group is not None:
            _lease(cursor, sql, [row], token, until)
            # A group shows one at most, so what is in the line already is shown anew, if at all; a tenant's stays.
            if not is_tenant(row.group):
                line = [other for other in line if other.group != row.group or other.placed or other.cancelled]
            following = show(cursor, sql, (row.queue, row.group))
            if following is not None:
                insort(line, following, key=_order)
    return taken


def _lease(cursor: sqlite3.Cursor, sql: Queries, rows: Sequence[Row], token: int, until: float) -> None:
    if rows:
        seqs = json.encode([row.seq for row in rows]).decode()
        cursor.execute(sql.lease, {"token": token, "until": until, "seqs": seqs})


def _order(row: Row) -> tuple[int, float, int]:
    return (-row.priority, row.due, row.seq)


def upcoming(cursor: sqlite3.Cursor, sql: Queries, queues: Sequence[str]) -> float | None:
    """When one of the queues next has a job to fetch: 0 for now, None for not in sight."""
    moments = [cursor.execute(sql.upcoming, {"queue": queue}).fetchone()[0] for queue in queues]
    return min((moment for moment in moments if moment is not None), default=None)
