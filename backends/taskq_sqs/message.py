"""A job as the body of a message: JSON that a person or another language can write, too.

``{"task": "mail.send", "args": {"to": "a@example.org"}}`` is enough. See docs/reference/wire-format.md.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from hashlib import sha256
from math import ceil

import msgspec
from msgspec import Raw, Struct

from taskq.errors import BrokerRejected, PayloadTooLarge
from taskq.job import Job, Nack, OnConflict, UniqueUntil

VERSION = 1
MAX_DELAY = 900
MAX_LEASE = 43_200.0

_TOKEN = re.compile(r"[!-~]{1,128}")
_CALL = b'{"v":1,"args":'
_NOTHING = Raw()
_FORBIDDEN = {b"\xef\xbf\xbe": b"\\ufffe", b"\xef\xbf\xbf": b"\\uffff"}
"""Two characters that SQS does not take; in JSON they stand in strings alone, where they can be escaped."""


class Body(Struct, omit_defaults=True, kw_only=True):
    """What a message says. Moments are seconds since the epoch, durations seconds."""

    task: str
    v: int = VERSION
    args: Raw = _NOTHING
    """The call's arguments."""
    body: str | None = None
    """Instead of ``args``: a call that is no such JSON, in base64."""
    id: str | None = None
    delay: float | None = None
    """From the moment the message was sent. Not together with ``run_at``."""
    run_at: float | None = None
    expires_in: float | None = None
    """From the moment the job is due. Not together with ``expires_at``."""
    expires_at: float | None = None
    attempt: int = 1
    losses: int = 0
    """Those of messages before this one."""
    fence: int = 0
    """The same."""
    error: Raw = _NOTHING
    outcome: Raw = _NOTHING
    """Of a dead letter: how the job ended."""
    priority: int = 0
    unique: str | None = None
    unique_until: UniqueUntil = "end"
    on_conflict: OnConflict = "return"
    group: str | None = None
    group_limit: int = 1
    tenant: str | None = None
    headers: Mapping[str, str] = {}


class _Envelope(Struct):
    """What SNS puts around a message."""

    Type: str = ""
    Message: str = ""


class Receipt(Struct, frozen=True):
    """All that is needed to end or extend a delivery, from any connection and without any memory."""

    queue: str
    band: int
    handle: str
    received: float
    """When, by the service's clock."""
    due: float
    losses: int
    fence: int
    serial: int
    """Tells it from the others of one process, even where SQS hands one message over twice in one answer."""
    message: str
    """Its id, which is the job's if the message names none."""
    text: str


class Undecodable(Exception):
    """A message that is no job."""


def written(job: Job, limit: int) -> bytes:
    """The job as text. Raises BrokerRejected or PayloadTooLarge."""
    body = Body(
        task=job.task,
        id=job.id,
        delay=job.delay if job.delay > 0 else None,
        run_at=job.run_at,
        expires_in=job.expires_in,
        priority=job.priority,
        unique=job.unique,
        unique_until=job.unique_until,
        on_conflict=job.on_conflict,
        group=job.group,
        group_limit=job.group_limit,
        tenant=job.tenant,
        headers=job.headers,
    )
    args = _args_of(job.body)
    if args is None:
        body.body = b64encode(job.body).decode()
    else:
        body.args = args
    try:
        text = text_of(body)
    except UnicodeEncodeError as error:
        raise BrokerRejected(f"job {job.id!r}: text that is not valid Unicode cannot be sent") from error
    if len(text) > limit:
        raise PayloadTooLarge(f"job {job.id!r}: its message has {len(text):,} bytes, and SQS takes {limit:,}")
    return text


def text_of(body: Body) -> bytes:
    """The body as JSON that SQS takes."""
    text = msgspec.json.encode(body)
    for character, escape in _FORBIDDEN.items():
        if character in text:
            text = text.replace(character, escape)
    return text


def read(text: str) -> Body:
    """What a message says, out of its SNS envelope if it has one. Raises Undecodable."""
    try:
        if '"Notification"' in text:
            envelope = msgspec.json.decode(text, type=_Envelope)
            if envelope.Type == "Notification":
                text = envelope.Message
        body = msgspec.json.decode(text, type=Body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Undecodable(str(error)) from error
    if body.v > VERSION:
        raise Undecodable(f"its version is {body.v}, this is {VERSION}")
    return body


def call_of(body: Body) -> bytes:
    """The job's own bytes. Raises Undecodable."""
    if body.body is None:
        return _CALL + (bytes(body.args) or b"{}") + b"}"
    try:
        return b64decode(body.body, validate=True)
    except (Base64Error, ValueError) as error:
        raise Undecodable(f"its body is not base64: {error}") from error


def packed(data: bytes | None) -> Raw:
    """Bytes of the worker's as they stand in a message: readable where they are a JSON object."""
    if data is None:
        return _NOTHING
    if data.startswith(b"{"):
        try:
            data.decode()
            return msgspec.json.decode(data, type=Raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
    return Raw(b'"' + b64encode(data) + b'"')


def unpacked(raw: Raw) -> bytes | None:
    """The inverse; None for what says nothing."""
    data = bytes(raw)
    if not data.startswith(b'"'):
        return data or None
    try:
        return b64decode(data[1:-1], validate=True)
    except (Base64Error, ValueError):
        return data


def receipt_of(held: Receipt) -> str:
    """As one text; the handle is its end."""
    numbers = f"{held.band} {held.received:.3f} {held.due:.6f} {held.losses} {held.fence} {held.serial}"
    return f"{held.queue} {numbers} {held.message}\n{held.text}\n{held.handle}"


def read_receipt(receipt: str) -> Receipt | None:
    """What a receipt names; None for what never was one."""
    head, _, rest = receipt.partition("\n")
    text, _, handle = rest.rpartition("\n")
    parts = head.split(" ", 7)
    if len(parts) != 8 or not handle:
        return None
    try:
        numbers = float(parts[2]), float(parts[3]), int(parts[4]), int(parts[5]), int(parts[6])
        return Receipt(parts[0], int(parts[1]), handle, *numbers, parts[7], text)
    except ValueError:
        return None


def job_of(body: Body, queue: str, id: str) -> Job:
    """The job as it was enqueued. Raises Undecodable."""
    return Job(
        id=id,
        task=body.task,
        body=call_of(body),
        queue=queue,
        priority=body.priority,
        unique=body.unique,
        on_conflict=body.on_conflict,
        unique_until=body.unique_until,
        group=body.group,
        group_limit=body.group_limit,
        tenant=body.tenant,
        headers=body.headers,
    )


def due_of(body: Body, sent: float) -> float:
    """When the job is due; ``sent`` is when its message was, and nothing is due sooner."""
    return sent + (body.delay or 0.0) if body.run_at is None else max(sent, body.run_at)


def expiry_of(body: Body, due: float) -> float | None:
    """When it is too late to start it."""
    if body.expires_at is None and body.expires_in is not None:
        return due + body.expires_in
    return body.expires_at


def again(held: Receipt, nack: Nack, now: float) -> Body:
    """The message to send in place of a delivery's. A job that is not due yet keeps its moment."""
    body = _carried(held)
    body.attempt += nack.counted
    body.losses, body.fence = held.losses, held.fence
    if nack.error is not None:
        body.error = packed(nack.error)
    if held.due > now:
        body.run_at = held.due
    else:
        body.delay = nack.after if nack.after > 0 else None
    return body


def set_aside(held: Receipt, outcome: bytes) -> Body:
    """A dead letter: moved back to its queue it is the job at its beginning."""
    body = _carried(held)
    body.attempt, body.fence, body.outcome = 1, held.fence, packed(outcome)
    body.losses = 0
    body.expires_at = None
    return body


def _carried(held: Receipt) -> Body:
    body = read(held.text)
    body.id = body.id or held.message
    body.expires_at = expiry_of(body, held.due)
    body.expires_in = body.run_at = body.delay = None
    body.outcome = _NOTHING
    return body


def fitting(body: Body, limit: int) -> bytes:
    """The text of a message that was smaller before: what is said of its errors gives way."""
    text = text_of(body)
    for part in ("outcome", "error"):
        if len(text) > limit:
            setattr(body, part, _NOTHING)
            text = text_of(body)
    return text


def hop(seconds: float) -> int:
    """How long SQS is to hold a message back: never too short, and no longer than it can."""
    return ceil(min(max(seconds, 0.0), MAX_DELAY))


def token(text: str) -> str:
    """A text as a FIFO queue takes it for its groups and repetitions."""
    return text if _TOKEN.fullmatch(text) else sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _args_of(body: bytes) -> Raw | None:
    """The arguments in a call that is written as ours are, to stand in the message as they are."""
    if not (body.startswith(_CALL) and body.endswith(b"}")):
        return None
    args = body[len(_CALL) : -1]
    try:
        args.decode()
        return msgspec.json.decode(args, type=Raw) and Raw(args)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
