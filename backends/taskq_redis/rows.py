"""Jobs as the scripts take them, and what scripts return as deliveries and records: values only."""

import struct
from collections.abc import Mapping, Sequence
from math import inf, isfinite

from msgspec import Raw, Struct, msgpack

from taskq.broker import Record
from taskq.errors import BrokerRejected, PayloadTooLarge
from taskq.job import Ack, DeadLetter, Delivery, Job, OnConflict, Settlement, State, UniqueUntil

_ROW = struct.Struct(">cc16sIIQQQQH")
ROW = _ROW.size
"""Bytes of a plain job's row."""

_PRIORITY = 2**52
_LONGEST = 2**52
_LAST = 2**53 - 1


class Call(Struct, frozen=True, array_like=True):
    """What the scripts never look into. A plain job's ends after the body."""

    task: str
    body: bytes
    headers: Mapping[str, str] = {}
    delay: float = 0.0
    run_at: float | None = None
    expires_in: float | None = None


class More(Struct, frozen=True, omit_defaults=True):
    """The part of a row that plain jobs lack; ``moves.lua`` says what each letter is."""

    u: str | None = None
    k: UniqueUntil = "end"
    ku: int = 0
    oc: OnConflict = "return"
    g: str | None = None
    l: int = 1  # noqa: E741 the scripts' name for it
    p: bool = False
    xi: int | None = None
    xa: int | None = None
    t: str | None = None
    c: bool = False
    e: bool = False


class Row(Struct, frozen=True):
    """Where a job stands and what changes about it; ``moves.lua`` says how it is written."""

    at: bytes
    token: str
    attempt: int
    losses: int
    fence: int
    priority: int
    due: int
    more: More | None


_NOTHING = More()

Line = tuple[str, bytes] | tuple[str, bytes, int, int, int | None, More | None]
"""A job for the scripts that add some: id, call, priority, delay, run_at, more. A plain one ends after the call."""


def text_of(data: bytes) -> Raw:
    """Bytes in a message for a script: to Lua they are a text, and its unpacker knows no other bytes."""
    return Raw(b"\xdb%b%b" % (len(data).to_bytes(4), data))


def microseconds(seconds: float) -> int:
    """A duration as the scripts take it; more than a century is a century."""
    return int(min(seconds * 1e6, _LONGEST))


def keeping(seconds: float) -> int:
    """How long something is kept: for ever is negative."""
    return -1 if seconds == inf else microseconds(seconds)


def is_plain(job: Job) -> bool:
    """Whether it is due and has nothing but its call, as most have."""
    return not (
        job.headers
        or job.delay
        or job.priority
        or job.run_at is not None
        or job.expires_in is not None
        or job.unique is not None
        or job.group is not None
        or job.tenant is not None
    )


def line_of(job: Job, encode: msgpack.Encoder) -> Line:
    """A job as the scripts take it."""
    if is_plain(job):
        return (job.id, encode.encode((job.task, job.body)))
    call = encode.encode(Call(job.task, job.body, job.headers, job.delay, job.run_at, job.expires_in))
    run_at = None if job.run_at is None else int(min(max(job.run_at, 0.0) * 1e6, _LAST))
    more = More(
        u=job.unique,
        k=job.unique_until,
        oc=job.on_conflict,
        g=job.group,
        l=job.group_limit,
        xi=None if job.expires_in is None else microseconds(job.expires_in),
        t=job.tenant,
    )
    delay = microseconds(max(job.delay, 0.0))
    return (job.id, call, job.priority, delay, run_at, None if more == _NOTHING else more)


def refusal(job: Job, max_size: int, partitions: int) -> BrokerRejected | None:
    """Why a job cannot be stored."""
    if len(job.body) > max_size:
        return PayloadTooLarge(f"job {job.id} has {len(job.body)} bytes; at most {max_size} are taken")
    if is_plain(job):
        return None
    if job.group is not None and job.group.startswith("\1"):
        return BrokerRejected(f"job {job.id}: a group begins with no control character")
    if partitions > 1 and job.group is not None and job.unique is not None:
        return BrokerRejected(
            f"job {job.id} has both a group and a unique key, which may be at home in different partitions of its "
            "queue: do without one of them, or without partitions"
        )
    moments = (job.delay, job.run_at or 0.0, job.expires_in or 0.0)
    until = job.unique_until
    if not all(map(isfinite, moments)) or not (isinstance(until, str) or isfinite(until)):
        return BrokerRejected(f"job {job.id}: delay, run_at, expires_in and unique_until are finite numbers of seconds")
    if not (-_PRIORITY <= job.priority < _PRIORITY and 1 <= job.group_limit < _PRIORITY):
        return BrokerRejected(f"job {job.id}: priority and group_limit fit 52 bits, and group_limit is at least 1")
    return None


def settlement_of(id: str, token: str, settlement: Settlement) -> tuple[object, ...]:
    """A settlement as ``settle.lua`` takes it."""
    match settlement:
        case Ack(outcome=outcome, keep=keep):
            return (id, token) if outcome is None or keep <= 0 else (id, token, "ack", text_of(outcome), keeping(keep))
        case DeadLetter(outcome=outcome, keep=keep):
            return (id, token, "dead", text_of(outcome), keeping(max(keep, 0.0)))
        case _:
            after = microseconds(max(settlement.after, 0.0))
            error = None if settlement.error is None else text_of(settlement.error)
            return (id, token, "nack", after, settlement.counted, error)


def receipt_of(token: str, partition: str, id: str) -> str:
    """It names its partition and job, so that what is done with it finds their slot."""
    return f"{token}{len(partition):x}.{partition}{id}"


def receipt_parts(receipt: str, width: int) -> tuple[str, str, str] | None:
    """The token, partition and id of a receipt; None for what is no receipt of this backend."""
    length, _, rest = receipt[width:].partition(".")
    try:
        size = int(length, 16)
    except ValueError:
        return None
    return receipt[:width], rest[:size], rest[size:]


def job_of(queue: str, id: str, row: Row, call: Call) -> Job:
    more = row.more
    if more is None:
        return Job(
            id=id,
            task=call.task,
            body=call.body,
            queue=queue,
            priority=row.priority,
            delay=call.delay,
            run_at=call.run_at,
            headers=call.headers,
        )
    return Job(
        id=id,
        task=call.task,
        body=call.body,
        queue=queue,
        priority=row.priority,
        delay=call.delay,
        run_at=call.run_at,
        expires_in=call.expires_in,
        unique=more.u,
        on_conflict=more.oc,
        unique_until=more.k if isinstance(more.k, str) else float(more.k),
        group=more.g,
        group_limit=more.l,
        tenant=more.t,
        headers=call.headers,
    )


def delivery_of(queue: str, partition: str, id: str, row: Row, call: Call, error: bytes | None, now: float) -> Delivery:
    more = row.more or _NOTHING
    return Delivery(
        job=job_of(queue, id, row, call),
        attempt=row.attempt,
        losses=row.losses,
        fence=row.fence,
        receipt=receipt_of(row.token, partition, id),
        now=now,
        due=row.due / 1e6,
        expires_at=None if more.xa is None else more.xa / 1e6,
        cancelled=more.c,
        error=error,
    )


def record_of(queue: str, found: Sequence[object], now: int, decode: "Decoders") -> Record:
    """What an operator sees of one job that ``look.lua`` found: what is due is ready, whoever has noticed."""
    match found:
        case [bytes(id), bytes(packed), bytes(call), error, letter, lease_end]:
            row = decode.row(packed)
        case _:
            raise BrokerRejected(f"a script described a job as {found!r}")
    more = row.more or _NOTHING
    due = int(float(lease_end)) if row.at == b"x" and isinstance(lease_end, bytes) else row.due
    states: dict[bytes, State] = {b"l": "later", b"x": "leased", b"d": "dead"}
    state = states.get(row.at, "ready")
    if state in ("later", "leased") and due <= now:
        state = "ready"
    return Record(
        job=job_of(queue, id.decode(), row, decode.call.decode(call)),
        state=state,
        attempt=row.attempt,
        losses=row.losses,
        due=due / 1e6,
        expires_at=None if more.xa is None else more.xa / 1e6,
        cancelled=more.c,
        error=error if isinstance(error, bytes) else None,
        outcome=letter if isinstance(letter, bytes) else None,
    )


class Decoders:
    """Made once a backend."""

    def __init__(self) -> None:
        self._more = msgpack.Decoder(More)
        self.call = msgpack.Decoder(Call)

    def row(self, packed: bytes) -> Row:
        at, more, token, attempt, losses, fence, priority, due, _, _ = _ROW.unpack_from(packed)
        rest = self._more.decode(memoryview(packed)[_ROW.size :]) if more == b"+" else None
        return Row(at, token.decode(), attempt, losses, fence, _PRIORITY - priority, due, rest)
