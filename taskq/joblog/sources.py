"""Where a job's lines come from: the records it logs and what it prints, known by the context it runs in."""

import logging
import sys
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, Protocol, TextIO

from taskq.context import running

FIELDS = ("job", "task", "queue", "attempt")
PREFIX = "taskq_"
"""A record's own names begin with it: a plain ``job`` would make ``extra={"job": …}`` in a handler an error."""


class Sink(Protocol):
    """Takes a job's text."""

    def add(self, at: float, source: str, logger: str, text: str) -> None:
        """Take in whole lines."""
        ...

    def write(self, stream: str, text: str) -> None:
        """Take in what was printed, whole lines or not."""
        ...


capturing: ContextVar[Sink | None] = ContextVar("taskq.capturing", default=None)


class JobRecords:
    """Makes log records that know the running job."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        current = running.get(None)
        # One without a name is being put together from elsewhere, and was not logged here.
        if current is None or record.name is None:  # pyright: ignore[reportUnnecessaryComparison] - logging.makeLogRecord
            return record
        job = current.delivery.job
        values = (job.id, job.task, job.queue, current.delivery.attempt)
        vars(record).update({PREFIX + name: value for name, value in zip(FIELDS, values, strict=True)})
        sink = capturing.get()
        if sink is not None:
            sink.add(record.created, record.levelname.lower(), record.name, _text(record))
        return record


def mark_records() -> None:
    """From now on every log record that a job of this process makes tells of which job it is."""
    # A factory and no handler: a root logger with a handler is one that basicConfig() and lastResort leave alone.
    make = logging.getLogRecordFactory()
    if not isinstance(make, JobRecords):
        logging.setLogRecordFactory(JobRecords(make))


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - the handler's arguments do not fit its text; logging itself tells of that
        text = f"{record.msg!r} {record.args!r}"
    if record.exc_info and record.exc_info[0] is not None:
        text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
    return text


class Tee:
    """A stream that lets the running job's sink hear what is written."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """Write on, and tell."""
        written = self._stream.write(text)
        sink = capturing.get()
        if sink is not None:
            sink.write(self._name, text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        """Write on, one after another."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def hear_streams() -> None:
    """From now on what jobs of this process print is heard, and goes where it went.

    For good: print() in another thread holds no reference to the stream it writes to, so that a stream that is taken
    away and freed meanwhile crashes the interpreter (CPython 3.11).
    """
    for name in ("stdout", "stderr"):
        found = getattr(sys, name)
        # A process may have none of them.
        if found is not None and not isinstance(found, Tee):
            setattr(sys, name, Tee(found, name))


def now() -> float:
    """The clock of log records."""
    return time.time()
