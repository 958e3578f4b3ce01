"""A stored job in words: its body and errors decoded as far as they can be."""

from typing import TypeVar

import msgspec

from taskq.broker import Record
from taskq.expiry import expiry
from taskq.report import Ended, ErrorReport, History
from taskq.tags import tags_of

T = TypeVar("T")

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def arguments_of(body: bytes) -> object:
    """A call's arguments by name; a body that is none of ours as text."""
    try:
        wire = msgspec.json.decode(body)
        return wire["args"]
    except (*_UNREADABLE, KeyError, TypeError):
        return body.decode(errors="replace")


def ended_of(record: Record) -> Ended | None:
    """How a dead letter ended."""
    return _read(record.outcome, Ended)


def errors_of(record: Record) -> list[ErrorReport]:
    """What its runs came to so far, the newest last."""
    ended = ended_of(record)
    if ended is not None:
        return ended.errors
    history = _read(record.error, History)
    return [] if history is None else history.errors


def trouble_of(record: Record) -> str:
    """Its last error, or why it was set aside, in a line."""
    errors, ended = errors_of(record), ended_of(record)
    if errors:
        return f"{errors[-1].type}: {errors[-1].message}"
    return ended.reason if ended is not None else ""


def arguments_text(record: Record) -> str:
    """Its arguments as JSON."""
    return msgspec.json.encode(arguments_of(record.job.body)).decode()


def record_json(record: Record) -> dict[str, object]:
    """Everything known of a stored job; times in seconds since the epoch."""
    job, ended = record.job, ended_of(record)
    return {
        "id": job.id,
        "queue": job.queue,
        "task": job.task,
        "state": record.state,
        "args": arguments_of(job.body),
        "attempt": record.attempt,
        "losses": record.losses,
        "priority": job.priority,
        "due": record.due,
        "expires_at": expiry(job.headers, record.expires_at),
        "cancelled": record.cancelled,
        "unique": job.unique,
        "group": job.group,
        "tenant": job.tenant,
        "tags": tags_of(job),
        "headers": job.headers,
        "end": ended.end if ended is not None else None,
        "reason": ended.reason if ended is not None else None,
        "errors": errors_of(record),
    }


def _read(data: bytes | None, kind: type[T]) -> T | None:
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except _UNREADABLE:
        return None
