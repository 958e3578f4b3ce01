"""How leases end, or last longer: each by the receipt of the last fetch."""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import inf
from typing import cast

from msgspec import json

from taskq.job import Ack, DeadLetter, Lease, Nack, Settlement
from taskq_sqlite.groups import Group, advance, show
from taskq_sqlite.queries import Queries
from taskq_sqlite.rows import receipt_parts

Settled = tuple[str, str, str | None]
"""The queue, id and group of a job whose lease has been settled."""

_held = json.Decoder(list[tuple[int, str, str, str | None]])


def settle(
    cursor: sqlite3.Cursor, sql: Queries, settlements: Sequence[Settlement], *, now: float, dedup_window: float
) -> list[Settled | None]:
    """Settle each; None where the receipt was void."""
    answers: list[Settled | None] = []
    for acks, run in groupby(settlements, lambda settlement: isinstance(settlement, Ack)):
        if acks:
            answers += _ack(cursor, sql, [*cast("Iterable[Ack]", run)], now, dedup_window)
        else:
            answers += [
                _settle(cursor, sql, settlement, now, dedup_window)
                for settlement in cast("Iterable[Nack | DeadLetter]", run)
            ]
    changed: set[Group] = {(row[0], row[2]) for row in answers if row is not None and row[2] is not None}
    for group in changed:
        show(cursor, sql, group)
    return answers


def _ack(
    cursor: sqlite3.Cursor, sql: Queries, acks: Sequence[Ack], now: float, dedup_window: float
) -> list[Settled | None]:
    """All acks of one fetch at once: beside a busy event loop each step of a statement may wait for the GIL."""
    places: dict[int, dict[int, int]] = {}
    """By token and number: a receipt settles once, also within one call."""
    for at, ack in enumerate(acks):
        parts = receipt_parts(ack.receipt)
        if parts is not None:
            seq, token = parts
            places.setdefault(token, {}).setdefault(seq, at)
    answers: list[Settled | None] = [None] * len(acks)
    for token, numbered in places.items():
        named = {"seqs": json.encode([*numbered]).decode(), "token": token}
        held = _held.decode(cursor.execute(sql.held, named).fetchone()[0])
        cursor.execute(sql.ack, named)
        for seq, queue, name, group in held:
            answers[numbered[seq]] = queue, name, group
    for ack, settled in zip(acks, answers, strict=True):
        if settled is not None and (dedup_window or ack.outcome is not None):
            _keep(cursor, sql, settled, ack, now, dedup_window)
    return answers


def _keep(
    cursor: sqlite3.Cursor, sql: Queries, ended: Settled, settlement: Ack | None, now: float, dedup_window: float
) -> None:
    """Remember an ended job's outcome for as long as it is kept, and its id for the dedup window."""
    outcome = settlement.outcome if settlement is not None else None
    outcome_until = now + settlement.keep if settlement is not None and outcome is not None else now
    lapses_at = max(outcome_until, now + dedup_window)
    if lapses_at > now:
        cursor.execute(sql.keep_ended, (*ended[:2], outcome, outcome_until, now + dedup_window, lapses_at))


def _settle(
    cursor: sqlite3.Cursor, sql: Queries, settlement: Nack | DeadLetter, now: float, dedup_window: float
) -> Settled | None:
    parts = receipt_parts(settlement.receipt)
    if parts is None:
        return None
    seq, token = parts
    found: list[Settled]
    match settlement:
        case Nack(after=after, counted=counted, error=error):
            nack = {"seq": seq, "token": token, "now": now, "due": now + after, "counted": counted, "error": error}
            found = cursor.execute(sql.nack, nack).fetchall()
        case DeadLetter(outcome=outcome, keep=keep):
            lapses_at = None if keep == inf else now + keep
            dead = {"seq": seq, "token": token, "now": now, "outcome": outcome, "lapses_at": lapses_at}
            found = cursor.execute(sql.dead_letter, dead).fetchall()
            if found:
                _keep(cursor, sql, found[0], None, now, dedup_window)
    return found[0] if found else None


def extend(
    cursor: sqlite3.Cursor, sql: Queries, receipts: Sequence[str], *, lease: float, now: float
) -> tuple[list[Lease], set[str]]:
    """Extend each; also the queues in which a lease now ends at another moment."""
    answers: list[Lease] = []
    queues: set[str] = set()
    for receipt in receipts:
        parts = receipt_parts(receipt)
        held = None if parts is None else _extend(cursor, sql, *parts, now + lease, now)
        if held is None:
            answers.append(Lease.LOST)
        else:
            cancelled, queue = held
            answers.append(Lease.CANCELLED if cancelled else Lease.HELD)
            queues.add(queue)
    return answers, queues


def _extend(
    cursor: sqlite3.Cursor, sql: Queries, seq: int, token: int, until: float, now: float
) -> tuple[int, str] | None:
    """Whether the job is cancelled, and its queue; None when the lease is lost."""
    named = {"seq": seq, "token": token, "until": until, "now": now}
    held: list[tuple[int, str]] = cursor.execute(sql.extend, named).fetchall()
    if held:
        return held[0]
    for (queue,) in cursor.execute(sql.queue_of, named).fetchall():
        # The lease is over, whether or not a fetch has found it so; the job may still be free to take.
        advance(cursor, sql, queue, now)
        for cancelled, group in cursor.execute(sql.retake, named).fetchall():
            if group is not None:
                show(cursor, sql, (queue, group))
            return cancelled, queue
    return None
