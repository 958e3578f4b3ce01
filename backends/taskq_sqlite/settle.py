"""How leases end, or last longer: each by the receipt of the last fetch."""

import sqlite3
from collections.abc import Sequence
from math import inf

from taskq.job import Ack, DeadLetter, Lease, Nack, Settlement
from taskq_sqlite.groups import Group, show
from taskq_sqlite.queries import Queries
from taskq_sqlite.rows import receipt_parts

Settled = tuple[str, str, str | None]
"""The queue, id and group of a job whose lease has been settled."""


def settle(
    cursor: sqlite3.Cursor, sql: Queries, settlements: Sequence[Settlement], *, now: float, dedup_window: float
) -> list[Settled | None]:
    """Settle each; None where the receipt was void."""
    answers = [_settle(cursor, sql, settlement, now, dedup_window) for settlement in settlements]
    changed: set[Group] = {(row[0], row[2]) for row in answers if row is not None and row[2] is not None}
    for group in changed:
        show(cursor, sql, group)
    return answers


def _settle(
    cursor: sqlite3.Cursor, sql: Queries, settlement: Settlement, now: float, dedup_window: float
) -> Settled | None:
    parts = receipt_parts(settlement.receipt)
    if parts is None:
        return None
    seq, token = parts
    found: list[Settled]
    match settlement:
        case Ack(outcome=outcome, keep=keep):
            found = cursor.execute(sql.ack, parts).fetchall()
            outcome_until = now + keep if outcome is not None else now
        case Nack(after=after, counted=counted, error=error):
            nack = {"seq": seq, "token": token, "now": now, "due": now + after, "counted": counted, "error": error}
            found = cursor.execute(sql.nack, nack).fetchall()
            return found[0] if found else None
        case DeadLetter(outcome=outcome, keep=keep):
            lapses_at = None if keep == inf else now + keep
            dead = {"seq": seq, "token": token, "now": now, "outcome": outcome, "lapses_at": lapses_at}
            found = cursor.execute(sql.dead_letter, dead).fetchall()
            outcome, outcome_until = None, now
    if not found:
        return None
    lapses_at = max(outcome_until, now + dedup_window)
    if lapses_at > now:
        ref = found[0][:2]
        cursor.execute(sql.keep_ended, (*ref, outcome, outcome_until, now + dedup_window, lapses_at))
    return found[0]


def extend(
    cursor: sqlite3.Cursor, sql: Queries, receipts: Sequence[str], *, until: float
) -> tuple[list[Lease], set[str]]:
    """Extend each; also the queues in which a lease now ends at another moment."""
    answers: list[Lease] = []
    queues: set[str] = set()
    for receipt in receipts:
        parts = receipt_parts(receipt)
        if parts is None:
            answers.append(Lease.LOST)
            continue
        named = {"seq": parts[0], "token": parts[1], "until": until}
        found = cursor.execute(sql.extend, named).fetchall()
        if not found:
            found = cursor.execute(sql.retake, named).fetchall()
            if found and found[0][2] is not None:
                show(cursor, sql, (found[0][1], found[0][2]))
        if not found:
            answers.append(Lease.LOST)
            continue
        answers.append(Lease.CANCELLED if found[0][0] else Lease.HELD)
        queues.add(found[0][1])
    return answers, queues
