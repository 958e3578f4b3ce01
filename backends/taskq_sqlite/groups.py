"""Groups: a queue's line shows the best member that a free place allows, so that those that wait cost a fetch nothing.

A member that needs no place stands in the line as any job does: a cancelled one will not run, and one that started
in order still holds its own.

A tenant is a group with a place for everybody whose members take turns: whoever is shown stands behind all others.
"""

import sqlite3
from collections.abc import Iterable
from time import time

from taskq_sqlite.queries import Queries
from taskq_sqlite.rows import Row, is_tenant

Group = tuple[str, str]
"""A queue and a group of it."""


def show(cursor: sqlite3.Cursor, sql: Queries, group: Group) -> Row | None:
    """Put the right member in the line after anything of the group has changed; None when none may go."""
    queue, name = group
    if is_tenant(name):
        # Behind all that stands in the line: of equal moments the order of the enqueues would count.
        turn = {"queue": queue, "grp": name, "turn": time()}
        cursor.execute(sql.step_back, turn)
        found = cursor.execute(sql.take_turn, turn).fetchall()
    else:
        cursor.execute(sql.park, group)
        found = cursor.execute(sql.show, {"queue": queue, "grp": name}).fetchall()
    return Row(*found[0]) if found else None


def show_all(cursor: sqlite3.Cursor, sql: Queries, queue: str, names: Iterable[str | None]) -> None:
    """The same for each group named; None is what a job without a group has."""
    for name in names:
        if name is not None:
            show(cursor, sql, (queue, name))


def advance(cursor: sqlite3.Cursor, sql: Queries, queue: str, now: float) -> None:
    """Carry out what time alone brings about in a queue: due jobs and those whose lease is over stand in line."""
    promoted = cursor.execute(sql.promote, {"queue": queue, "now": now}).fetchall()
    show_all(cursor, sql, queue, {name for (name,) in promoted})
