"""Rows as jobs and jobs as rows: values only."""

from collections.abc import Mapping
from math import isfinite
from typing import Literal

from msgspec import Struct, json

from taskq.broker import Record
from taskq.errors import BrokerRejected, PayloadTooLarge
from taskq.job import Delivery, Job, OnConflict, State, UniqueUntil

Value = str | bytes | int | float | None
Stored = Literal["later", "ready", "parked", "leased", "dead"]

_INTEGER = 2**63
_TENANT = "\1"
"""A tenant is stored as a group of this mark and its name, in which there is a place for everybody."""


class Row(Struct, frozen=True, gc=False):
    """A whole row, its fields in the order in which the statements return them."""

    queue: str
    id: str
    task: str
    body: bytes
    priority: int
    unique: str | None
    group: str | None
    group_limit: int
    rest: str | None
    due: float
    attempt: int
    losses: int
    expires_at: float | None
    cancelled: int
    error: bytes | None
    seq: int
    fence: int
    token: int | None
    state: Stored
    outcome: bytes | None
    placed: int
    was_due: float | None = None
    """When it was due, if ``due`` is the moment of its tenant's turn."""


class Rest(Struct, frozen=True, omit_defaults=True):
    """What a caller said that only the job itself repeats, so that a plain job stores nothing for it."""

    delay: float = 0.0
    run_at: float | None = None
    expires_in: float | None = None
    on_conflict: OnConflict = "return"
    unique_until: UniqueUntil = "end"
    tenant: str | None = None
    headers: Mapping[str, str] = {}


_PLAIN = Rest()


class Front(Struct, frozen=True, array_like=True, gc=False):
    """A ready row as ``front`` describes it: sizes in the place of bytes, moments in two parts."""

    queue: str
    id: str
    task: str
    body_size: int
    priority: int
    unique: str | None
    group: str | None
    group_limit: int
    rest: str | None
    due: int
    due_part: float
    attempt: int
    losses: int
    expires_at: int | None
    expires_part: float | None
    cancelled: int
    error_size: int | None
    seq: int
    fence: int
    token: int | None
    placed: int
    was_due: int | None
    was_due_part: float | None


_fronts = json.Decoder(list[Front])


def rows_of(described: str, all_bodies: bytes | None, all_errors: bytes | None) -> list[Row]:
    """The rows that ``front`` answers as three values."""
    rows: list[Row] = []
    bodies, errors = all_bodies or b"", all_errors or b""
    body_at = error_at = 0
    for one in _fronts.decode(described):
        body_from, body_at = body_at, body_at + one.body_size
        error_from, error_at = error_at, error_at + (one.error_size or 0)
        row = Row(
            one.queue,
            one.id,
            one.task,
            bodies[body_from:body_at],
            one.priority,
            one.unique,
            one.group,
            one.group_limit,
            one.rest,
            one.due + one.due_part,
            one.attempt,
            one.losses,
            _moment(one.expires_at, one.expires_part),
            one.cancelled,
            None if one.error_size is None else errors[error_from:error_at],
            one.seq,
            one.fence,
            one.token,
            "ready",
            None,
            one.placed,
            _moment(one.was_due, one.was_due_part),
        )
        rows.append(row)
    return rows


def _moment(whole: int | None, part: float | None) -> float | None:
    return None if whole is None else whole + (part or 0.0)


def rest_of(job: Job) -> Rest:
    return Rest(job.delay, job.run_at, job.expires_in, job.on_conflict, job.unique_until, job.tenant, dict(job.headers))


def written(rest: Rest) -> str | None:
    """The stored form; None for what is all default."""
    return None if rest == _PLAIN else json.encode(rest).decode()


def read(rest: str | None) -> Rest:
    return _PLAIN if rest is None else json.decode(rest, type=Rest)


def group_of(job: Job) -> str | None:
    """The group that a job is stored with."""
    return job.group if job.group is not None or job.tenant is None else _TENANT + job.tenant


def is_tenant(group: str) -> bool:
    return group.startswith(_TENANT)


def due_of(job: Job, now: float) -> float:
    return now + job.delay if job.run_at is None else max(now, job.run_at)


def values_of(job: Job, now: float) -> tuple[Value, ...]:
    """The parameters of ``add_job``."""
    due = due_of(job, now)
    expires_at = None if job.expires_in is None else due + job.expires_in
    group = group_of(job)
    state: Stored = "later" if due > now else "ready" if group is None else "parked"
    keyed = 0
    key_until: Value = None
    if job.unique is not None:
        keyed = 1
        key_until = job.unique_until if isinstance(job.unique_until, str) else now + job.unique_until
    return (
        job.queue,
        job.id,
        job.task,
        job.body,
        job.priority,
        state,
        due,
        expires_at,
        job.unique,
        keyed,
        key_until,
        group,
        _INTEGER - 1 if group is not None and is_tenant(group) else job.group_limit,
        written(rest_of(job)),
    )


def refusal(job: Job, max_size: int) -> BrokerRejected | None:
    """Why a job cannot be stored."""
    if len(job.body) > max_size:
        return PayloadTooLarge(f"job {job.id} has {len(job.body)} bytes; at most {max_size} are taken")
    moments = (job.delay, job.run_at or 0.0, job.expires_in or 0.0)
    until = job.unique_until
    if not all(map(isfinite, moments)) or not (isinstance(until, str) or isfinite(until)):
        return BrokerRejected(f"job {job.id}: delay, run_at, expires_in and unique_until are finite numbers of seconds")
    if not (-_INTEGER <= job.priority < _INTEGER and 1 <= job.group_limit < _INTEGER):
        return BrokerRejected(f"job {job.id}: priority and group_limit fit 64 bits, and group_limit is at least 1")
    if job.group is not None and is_tenant(job.group):
        return BrokerRejected(f"job {job.id}: a group begins with no control character")
    try:
        f"{job.queue}{job.id}{job.task}{job.unique}{job.group}{job.tenant}".encode()
        for name, value in job.headers.items():
            f"{name}{value}".encode()
    except UnicodeEncodeError as error:
        refused = BrokerRejected(f"job {job.id!r}: text that is not valid Unicode cannot be stored")
        refused.__cause__ = error
        return refused
    return None


def job_of(row: Row) -> Job:
    rest = read(row.rest)
    grouped = row.group is not None and not is_tenant(row.group)
    return Job(
        id=row.id,
        task=row.task,
        body=row.body,
        queue=row.queue,
        priority=row.priority,
        delay=rest.delay,
        run_at=rest.run_at,
        expires_in=rest.expires_in,
        unique=row.unique,
        on_conflict=rest.on_conflict,
        unique_until=rest.unique_until,
        group=row.group if grouped else None,
        group_limit=row.group_limit if grouped else 1,
        tenant=rest.tenant,
        headers=rest.headers,
    )


def delivery_of(row: Row, token: int, now: float) -> Delivery:
    """The delivery of a row that has just been leased; the row is as it was before."""
    return Delivery(
        job=job_of(row),
        attempt=row.attempt,
        losses=row.losses + (row.token is not None),
        fence=row.fence + 1,
        receipt=f"{row.seq}.{token:x}",
        now=now,
        due=row.due if row.was_due is None else row.was_due,
        expires_at=row.expires_at,
        cancelled=bool(row.cancelled),
        error=row.error,
    )


def receipt_parts(receipt: str) -> tuple[int, int] | None:
    """The row and the token a receipt names; None for what is no receipt of this backend."""
    seq, _, token = receipt.partition(".")
    try:
        parts = int(seq), int(token, 16)
    except ValueError:
        return None
    return parts if max(parts) < _INTEGER and min(parts) >= 0 else None


def record_of(row: Row, now: float) -> Record:
    """What an operator sees: what is due is ready, whether or not a fetch has found it so."""
    state: State
    if row.state in ("later", "leased"):
        state = row.state if row.due > now else "ready"
    else:
        state = "ready" if row.state == "parked" else row.state
    return Record(
        job=job_of(row),
        state=state,
        attempt=row.attempt,
        losses=row.losses,
        due=row.due,
        expires_at=row.expires_at,
        cancelled=bool(row.cancelled),
        error=row.error,
        outcome=row.outcome,
    )
