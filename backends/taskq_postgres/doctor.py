"""What an operator should know of the server: what a crash may lose, what slows it down, what it may run out of."""

import time
from collections.abc import Sequence
from typing import Any

from taskq.broker import Doctor, Finding
from taskq_postgres.budget import room
from taskq_postgres.lanes import Connection, Lanes

_SKEW = 1.0
"""Seconds between the server's clock and ours from which the moments that callers name are visibly off."""

_OLD = 60.0
"""Seconds after which an open transaction keeps noticeably much from being removed."""

_FULL = 0.8
OLDEST = 15
"""The first PostgreSQL that will do."""


def doctor(lanes: Lanes, health: str, *, connections: int, pooled: bool, listening: bool) -> Doctor:
    """Examines the server behind these lanes."""

    async def examine() -> Sequence[Finding]:
        row, clock = await lanes.run(lambda connection: ask(connection, health))
        return [*judged(row, connections), pooler(pooled, listening), clock]

    return examine


async def ask(connection: Connection, query: str) -> tuple[Any, Finding]:
    """The row of a query, and how far its moment ``now`` is from ours."""
    began = time.time()
    row: Any = await connection.fetchrow(query)
    ended = time.time()
    return row, _clock(row["now"] - (began + ended) / 2, sure=(ended - began) / 2)


def judged(row: Any, each: int) -> list[Finding]:
    """What a row of ``health.sql`` means for processes that hold so many connections each."""
    return [
        _version(row),
        _commit(row),
        _pages(row),
        _standbys(row),
        _transactions(row),
        _dead_rows(row),
        _connections(row, each),
    ]


def _version(row: Any) -> Finding:
    if row["version_num"] < OLDEST * 10_000:
        return Finding("version", "error", f"PostgreSQL {row['version']}", f"use PostgreSQL {OLDEST} or newer")
    if row["standby"]:
        remedy = "name the primary in the URL, or let target_session_attrs=read-write find it"
        return Finding("version", "error", f"PostgreSQL {row['version']}, a standby that takes no jobs", remedy)
    return Finding("version", "ok", f"PostgreSQL {row['version']}")


def _commit(row: Any) -> Finding:
    if not row["fsync"]:
        message = "fsync off: a crash of the machine may lose everything"
        return Finding("commit", "error", message, "set fsync = on")
    if row["synchronous_commit"] == "off":
        message = "synchronous_commit off: a crash may lose the jobs of the last moments"
        return Finding(
            "commit", "warning", message, "set synchronous_commit = on, or ALTER ROLE … SET it for this user"
        )
    return Finding(
        "commit", "ok", f"synchronous_commit {row['synchronous_commit']}: a job is on the disk when it is taken"
    )


def _pages(row: Any) -> Finding:
    if row["full_page_writes"]:
        return Finding("full pages", "ok", "full_page_writes on")
    message = "full_page_writes off: a crash in the middle of a write may leave a torn page"
    return Finding("full pages", "warning", message, "set full_page_writes = on, unless the file system rules that out")


def _standbys(row: Any) -> Finding:
    there, synchronous = row["standbys"], row["synchronous_standbys"]
    message = f"{there} connected, {synchronous} synchronous"
    if row["wanted_standbys"] and not synchronous and row["synchronous_commit"] not in ("off", "local"):
        remedy = "start one, or change synchronous_standby_names: every commit waits for it"
        return Finding("standbys", "error", f"{message}; {row['wanted_standbys']!r} wanted", remedy)
    if there and not synchronous:
        remedy = "name one in synchronous_standby_names to have each job on it before its defer is answered"
        return Finding("standbys", "warning", f"{message}: a failover may lose the last jobs", remedy)
    return Finding("standbys", "ok", message)


def _transactions(row: Any) -> Finding:
    oldest = max(row["oldest"] or 0.0, row["prepared"] or 0.0)
    message = f"the oldest has been open for {oldest:.0f} s"
    if oldest > _OLD:
        remedy = "look for it in pg_stat_activity and pg_prepared_xacts, and set idle_in_transaction_session_timeout"
        return Finding("transactions", "warning", f"{message}: no dead row can be removed meanwhile", remedy)
    if row["idle_slots"]:
        message = f"{row['idle_slots']} replication slots that nobody reads keep what they have not read"
        return Finding("transactions", "warning", message, "drop them: see pg_replication_slots")
    return Finding("transactions", "ok", message)


def _dead_rows(row: Any) -> Finding:
    dead, live = row["dead"], row["live"]
    message = f"{dead} dead rows beside {live} jobs, {row['bytes'] >> 20} MB"
    if not row["autovacuum"]:
        return Finding(
            "dead rows", "error", f"{message}, and no autovacuum", "set autovacuum = on and track_counts = on"
        )
    # The tables ask for a vacuum after 5,000.
    if dead > max(100_000, 2 * live):
        remedy = "see what keeps them (transactions), or whether autovacuum keeps up (log_autovacuum_min_duration)"
        return Finding("dead rows", "warning", message, remedy)
    return Finding("dead rows", "ok", message)


def _connections(row: Any, each: int) -> Finding:
    used, most = row["used"], row["most"]
    processes = room(row) // each
    message = f"{used} of {most} in use, room for {processes} more processes of {each} each"
    if not processes or used > _FULL * most:
        return Finding("connections", "warning", message, "raise max_connections, or put PgBouncer in between")
    return Finding("connections", "ok", message)


def pooler(pooled: bool, listening: bool) -> Finding:
    """Whether one is in between, and what that costs."""
    if not pooled:
        return Finding("pooler", "ok", "none")
    if not listening:
        remedy = "name a direct way to the server as listen_url"
        return Finding("pooler", "warning", "in between: fetches look once a second, and there are no hints", remedy)
    return Finding("pooler", "ok", "in between, with a direct way for LISTEN")


def _clock(ahead: float, *, sure: float) -> Finding:
    """``sure`` to so many seconds: the answer may have been on its way for long."""
    message = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) - sure > _SKEW:
        return Finding("clock", "warning", message, "run NTP on both: a run_at is a moment of the server's clock")
    return Finding("clock", "ok", message)
