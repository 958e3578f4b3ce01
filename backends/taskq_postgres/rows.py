"""Rows as jobs, jobs as arrays, and receipts: values only."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from operator import attrgetter
from secrets import randbits
from typing import TypeVar

import asyncpg
from msgspec import Struct, json

from taskq.broker import Record
from taskq.errors import BrokerRejected, PayloadTooLarge
from taskq.job import Delivery, Job, OnConflict, UniqueUntil

T = TypeVar("T")

_INTEGER = 2**31
_TOKEN = 63
# An index entry has room for 2,704 bytes, and the longest holds two of these texts.
_TEXT = 1200
_TENANT = "\1"
"""A tenant is stored as a group of this mark and its name, in which there is a place for everybody."""


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
_SAID = attrgetter(
    "priority",
    "delay",
    "run_at",
    "expires_in",
    "unique",
    "on_conflict",
    "unique_until",
    "group",
    "group_limit",
    "tenant",
    "headers",
)
_NOTHING_SAID = _SAID(Job(id="", task="", body=b""))


class Receipt(Struct, frozen=True, order=True):
    """Which row a lease is of, and the proof of it."""

    queue: str
    id: str
    token: int
    grouped: bool


def _head(queue: str, grouped: bool, token: int) -> str:
    """How the receipts of a fetch begin, before the job's id."""
    return f"{token:x}.{int(grouped)}.{len(queue)}.{queue}"


def receipt_of(text: str) -> Receipt | None:
    """The receipt a text says; None for what is no receipt of this backend."""
    try:
        token, grouped, size, names = text.split(".", 3)
        receipt = Receipt(names[: int(size)], names[int(size) :], int(token, 16), grouped == "1")
        names.encode()
    except ValueError:
        return None
    return receipt if 0 <= receipt.token < 2**_TOKEN and "\0" not in names else None


def receipts_of(texts: Iterable[str]) -> list[Receipt | None]:
    """As :func:`receipt_of`; those of one fetch begin alike, which spares two thirds of the reading."""
    receipts: list[Receipt | None] = []
    last, head = None, ""
    for text in texts:
        job = text[len(head) :]
        if last is not None and text.startswith(head) and job.isascii() and "\0" not in job:
            receipts.append(Receipt(last.queue, job, last.token, last.grouped))
            continue
        receipt = receipt_of(text)
        receipts.append(receipt)
        if receipt is not None:
            last, head = receipt, text.removesuffix(receipt.id)
    return receipts


def new_token() -> int:
    return randbits(_TOKEN)


def are_plain(jobs: Sequence[Job]) -> bool:
    """Whether each says nothing but what is to be called."""
    said = list(map(_SAID, jobs))
    return said.count(_NOTHING_SAID) == len(said)


def arrays_of(jobs: Sequence[Job], *, plain: bool) -> tuple[Sequence[object] | None, ...]:
    """The parameters of ``enqueue``: an array for each column, None where all jobs have its default."""
    calls = (
        shortened([job.queue for job in jobs]),
        [job.id for job in jobs],
        shortened([job.task for job in jobs]),
        [job.body for job in jobs],
    )
    if plain:
        return (*calls, *[None] * 11)
    keyed = [job.unique_until if job.unique is not None else None for job in jobs]
    return (
        *calls,
        _said((job.priority for job in jobs), 0),
        _said((job.delay for job in jobs), 0.0),
        _said((job.run_at for job in jobs), None),
        _said((job.expires_in for job in jobs), None),
        _said((job.unique for job in jobs), None),
        _said((job.on_conflict for job in jobs), "return"),
        _said((until if isinstance(until, str) else None for until in keyed), None),
        _said((None if isinstance(until, str) else until for until in keyed), None),
        _said((group for group, _ in map(_group, jobs)), None),
        _said((limit for _, limit in map(_group, jobs)), 1),
        _said(map(_rest, jobs), None),
    )


def _group(job: Job) -> tuple[str | None, int]:
    if job.group is None and job.tenant is not None:
        return _TENANT + job.tenant, _INTEGER - 1
    return job.group, job.group_limit


def shortened(values: list[T]) -> list[T]:
    """One element where all are equal, which the server takes for each: the driver needs 0.3 µs for an element."""
    return values[:1] if values.count(values[0]) == len(values) else values


def _said(values: Iterable[T], default: T) -> list[T] | None:
    column = list(values)
    return column if column.count(default) < len(column) else None


def _rest(job: Job) -> str | None:
    rest = Rest(job.delay, job.run_at, job.expires_in, job.on_conflict, job.unique_until, job.tenant, dict(job.headers))
    return None if rest == _PLAIN else json.encode(rest).decode()


def refusal(job: Job, max_size: int, *, plain: bool) -> BrokerRejected | None:
    """Why a job cannot be stored."""
    if len(job.body) > max_size:
        return PayloadTooLarge(f"job {job.id} has {len(job.body)} bytes; at most {max_size} are taken")
    if plain:
        said = job.queue + job.id + job.task
        if len(said) <= _TEXT and said.isascii() and "\0" not in said:
            return None
    moments = (job.delay, job.run_at or 0.0, job.expires_in or 0.0)
    until = job.unique_until
    if not all(map(isfinite, moments)) or not (isinstance(until, str) or isfinite(until)):
        return BrokerRejected(f"job {job.id}: delay, run_at, expires_in and unique_until are finite numbers of seconds")
    if not (-_INTEGER <= job.priority < _INTEGER and 1 <= job.group_limit < _INTEGER):
        return BrokerRejected(f"job {job.id}: priority and group_limit fit 32 bits, and group_limit is at least 1")
    if job.group is not None and job.group.startswith(_TENANT):
        return BrokerRejected(f"job {job.id}: a group begins with no control character")
    said = f"{job.queue}{job.id}{job.task}{job.unique}{job.group}{job.tenant}"
    for name, value in job.headers.items():
        said += f"{name}{value}"
    if "\0" in said:
        return BrokerRejected(f"job {job.id!r}: PostgreSQL stores no text with a NUL in it")
    if len(said) <= _TEXT and said.isascii():
        return None
    try:
        said.encode()
    except UnicodeEncodeError as error:
        refused = BrokerRejected(f"job {job.id!r}: text that is not valid Unicode cannot be stored")
        refused.__cause__ = error
        return refused
    longest = max(len((text or "").encode()) for text in (job.queue, job.id, job.unique, job.group, job.tenant))
    if longest > _TEXT:
        return BrokerRejected(f"job {job.id!r}: queue, id, unique, group and tenant have at most {_TEXT} bytes each")
    return None


def deliveries_of(rows: Sequence[asyncpg.Record], token: int) -> list[Delivery]:
    """What ``fetch`` leased: its columns by their numbers, which costs half of what their names do."""
    heads = {of: _head(*of, token) for of in {(row[0], row[6] is not None) for row in rows}}
    return [
        Delivery(
            job=_job(*row[:9]),
            attempt=row[10],
            losses=row[11],
            fence=row[12],
            receipt=heads[row[0], row[6] is not None] + row[1],
            now=row[16],
            due=row[9],
            expires_at=row[13],
            cancelled=row[14],
            error=row[15],
        )
        for row in rows
    ]


class Handed(Struct, frozen=True, array_like=True):
    """A job that was leased when it was added, as ``hand`` writes it."""

    queue: str
    id: str
    task: str
    body: bytes
    token: int
    now: float
    queues: tuple[str, ...]
    """That the fetch waited for."""

    @property
    def delivery(self) -> Delivery:
        return Delivery(
            job=Job(id=self.id, task=self.task, body=self.body, queue=self.queue),
            attempt=1,
            losses=0,
            fence=1,
            receipt=_head(self.queue, False, self.token) + self.id,
            now=self.now,
            due=self.now,
        )


read_handed = json.Decoder(Handed).decode


def record_of(row: asyncpg.Record) -> Record:
    """What an operator sees: what is due is ready, whether or not a fetch has found it so."""
    stored, due = row["state"], row["due"]
    timed = stored in ("later", "leased") and due > row["now"]
    return Record(
        job=_job(*row[:9]),
        state=stored if timed or stored == "dead" else "ready",
        attempt=row["attempt"],
        losses=row["losses"],
        due=due,
        expires_at=row["expires_at"],
        cancelled=row["cancelled"],
        error=row["error"],
        outcome=row["outcome"],
    )


def _job(
    queue: str,
    id: str,
    task: str,
    body: bytes,
    priority: int,
    unique: str | None,
    group: str | None,
    group_limit: int,
    rest: str | None,
) -> Job:
    said = _PLAIN if rest is None else json.decode(rest, type=Rest)
    if group is not None and group.startswith(_TENANT):
        group, group_limit = None, 1
    return Job(
        id=id,
        task=task,
        body=body,
        queue=queue,
        priority=priority,
        delay=said.delay,
        run_at=said.run_at,
        expires_in=said.expires_in,
        unique=unique,
        on_conflict=said.on_conflict,
        unique_until=said.unique_until,
        group=group,
        group_limit=group_limit,
        tenant=said.tenant,
        headers=said.headers,
    )
