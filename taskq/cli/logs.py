"""What a worker writes down: one line an event, as text or JSON, on stderr."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import click

from taskq.errors import Signal
from taskq.events import (
    BrokerLost,
    BrokerRegained,
    DeadLettersDropped,
    Event,
    Events,
    JobAgain,
    JobEvent,
    JobFinished,
    JobRepeated,
    JobStarted,
    JobVetoed,
    LeaseLost,
    LoopStalled,
    MemoryGrown,
    SettlementRefused,
    WorkerDraining,
    WorkerStarted,
    WorkerStopped,
)
from taskq.joblog.sources import FIELDS, PREFIX
from taskq.pools import DEFAULT

Format = Literal["text", "json"]

_log = logging.getLogger("taskq.worker")

_LOGGED: Sequence[type[Event]] = (
    JobFinished,
    JobRepeated,
    JobAgain,
    JobVetoed,
    SettlementRefused,
    LeaseLost,
    LoopStalled,
    MemoryGrown,
    DeadLettersDropped,
    BrokerLost,
    BrokerRegained,
    WorkerStarted,
    WorkerDraining,
    WorkerStopped,
)
_ENDS: Mapping[str, int] = {
    "failed": logging.ERROR,
    "quarantined": logging.ERROR,
    "lost": logging.ERROR,
    "expired": logging.WARNING,
}
_COLOURS: Mapping[int, str] = {logging.DEBUG: "bright_black", logging.WARNING: "yellow", logging.ERROR: "red"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

Line = tuple[int, str, BaseException | None]
"""Level, words and error of an event."""


def set_up(format: Format, level: str) -> None:
    """Send every record of this level and above, whoever logs it, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    handler.setFormatter(Formatter(as_json if format == "json" else (lambda record: as_text(record, colour=colour))))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def follow(events: Events) -> None:
    """Log every event that the level lets through; the others are not even built."""
    if _log.isEnabledFor(logging.DEBUG):
        events.subscribe(JobStarted, _write)
    for kind in _LOGGED:
        events.subscribe(kind, _write)


def _write(event: Event) -> None:
    level, words, error = line_of(event)
    if _log.isEnabledFor(level):
        _log.log(level, words, exc_info=error, extra={"event": type(event).__name__, **_fields(event)})


def _fields(event: Event) -> dict[str, object]:
    match event:
        case JobEvent():
            fields: dict[str, object] = {
                "job": event.id,
                "task": event.task,
                "queue": event.queue,
                "attempt": event.attempt,
            }
            peak = event.peak if isinstance(event, JobFinished | JobAgain) else 0
            return {**fields, "peak": peak} if peak else fields
        case MemoryGrown():
            return {"runs": event.jobs, "grown": event.grown, "memory": event.memory}
        case LoopStalled(id=id, task=task) if id is not None:
            return {"job": id, "task": task}
        case DeadLettersDropped():
            return {"queue": event.queue, "jobs": event.jobs, "size": event.size}
        case WorkerStarted():
            return {"queues": list(event.queues), "slots": event.slots, "pid": os.getpid()}
        case _:
            return {}


def line_of(event: Event) -> Line:
    """How an event reads."""
    match event:
        case JobStarted():
            return logging.DEBUG, f"{event.task} started, {event.wait:.3f} s after it became due", None
        case JobFinished(end="returned"):
            return logging.INFO, f"{event.task} returned after {event.run:.3f} s", None
        case JobFinished():
            return _ENDS.get(event.end, logging.INFO), _ended(event), _told(event.error)
        case JobAgain():
            # What is given back at once, uncounted, or snoozed by its handler, is no trouble.
            trouble = event.counted or (event.error is None and event.after > 0)
            level = logging.WARNING if trouble else logging.INFO
            return level, f"{event.task} runs again in {event.after:.1f} s: {event.reason}", _told(event.error)
        case SettlementRefused():
            return logging.WARNING, f"{event.task} ended too late: its lease was over and the job fetched again", None
        case JobRepeated():
            return logging.DEBUG, f"{event.task} came once more, was recognised and not run", None
        case LeaseLost():
            return logging.WARNING, f"{event.task} lost its lease and is being cancelled", None
        case JobVetoed():
            return logging.INFO, f"{event.task} was not deferred: {event.reason}", None
        case DeadLettersDropped():
            words = f"queue {event.queue} had too many dead letters: the {event.jobs} oldest were dropped"
            return logging.WARNING, f"{words} ({event.size:,} bytes)", None
        case _:
            return _line_of_worker(event)


def _ended(event: JobFinished) -> str:
    # What an error says, its traceback says.
    return f"{event.task} ended: {event.end}" + (f": {event.reason}" if event.reason and event.error is None else "")


def _line_of_worker(event: Event) -> Line:
    match event:
        case LoopStalled():
            where = f"in {event.task}" if event.task is not None else "outside of jobs"
            words = f"the event loop has stood still for {event.seconds:.1f} s {where}\n{event.stack.rstrip()}"
            return logging.WARNING, words, None
        case MemoryGrown():
            words = f"memory grew all along over the last {event.jobs:,} runs, to {event.memory >> 20} MiB"
            return logging.WARNING, f"{words}: {event.grown // event.jobs:,} bytes a run", None
        case BrokerLost():
            return logging.ERROR, f"the broker{_named(event.broker)} does not answer: {event.error}", None
        case BrokerRegained():
            return logging.WARNING, f"the broker{_named(event.broker)} answers again after {event.seconds:.1f} s", None
        case WorkerStarted():
            queues = ", ".join(event.queues)
            return logging.INFO, f"worker started: {event.slots} slots, queues {queues}", None
        case WorkerDraining():
            return logging.INFO, f"worker draining: {event.running} jobs run", None
        case WorkerStopped():
            return logging.INFO, "worker stopped", None
        case _:
            return logging.INFO, repr(event), None


def _told(error: BaseException | None) -> BaseException | None:
    """An error whose traceback says something; a signal is only an answer."""
    return None if isinstance(error, Signal) else error


class Formatter(logging.Formatter):
    """Writes records with a function; logging takes nothing but its own class."""

    def __init__(self, write: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._write = write

    def format(self, record: logging.LogRecord) -> str:
        return self._write(record)


def as_text(record: logging.LogRecord, *, colour: bool) -> str:
    """``2030-01-31 08:00:00.123 INFO  mail.send returned after 0.012 s  job=… queue=mail attempt=1``."""
    at = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")
    level = f"{record.levelname:<7}"
    if colour and record.levelno in _COLOURS:
        level = click.style(level, fg=_COLOURS[record.levelno])
    name = "" if record.name.startswith("taskq") else f" {record.name}:"
    extra = " ".join(f"{key}={value}" for key, value in _extra(record).items() if key in ("job", "queue", "attempt"))
    first, newline, rest = record.getMessage().partition("\n")
    return f"{at} {level}{name} {first}{'  ' if extra else ''}{extra}{newline}{rest}{_traceback(record)}"


def as_json(record: logging.LogRecord) -> str:
    """One object a line; a job's fields stand beside the message."""
    line: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    # A record's extra fields come behind these, and replace none of them.
    line = {**line, **_extra(record), **line}
    if record.exc_info and record.exc_info[0] is not None:
        line["error"] = {
            "type": record.exc_info[0].__qualname__,
            "message": "".join(traceback.format_exception_only(record.exc_info[1])).strip(),
            "traceback": _traceback(record).lstrip("\n"),
        }
    # The standard library's: what others put into a record may be what msgspec refuses, a half surrogate pair, say.
    return json.dumps(line, default=repr)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    """What a record has beside the usual, its job's fields under their plain names where nobody else uses these."""
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return {name: fields.pop(PREFIX + name) for name in FIELDS if PREFIX + name in fields} | fields


def _traceback(record: logging.LogRecord) -> str:
    return f"\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else ""


def _named(broker: str) -> str:
    """A name only where it tells anything."""
    return "" if broker == DEFAULT else f" {broker}"
