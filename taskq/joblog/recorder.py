"""Writes what jobs log and print to the Store: once a second at most for a job, whatever it says."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
import msgspec

from taskq.context import Current
from taskq.errors import BrokerError
from taskq.job import Delivery, JobRef
from taskq.joblog.kept import KEPT, key_of
from taskq.joblog.lines import Captured, Line, Ring, read, sendable
from taskq.joblog.sources import capturing, hear_streams, now
from taskq.middleware import Handler, Middleware
from taskq.report import Redact, redacted
from taskq.store import Store

PERIOD = 1.0
"""Seconds between two writes of one job's lines."""
AT_ONCE = 32
"""Writes under way."""
MOST = 10_000
"""Jobs whose lines wait for a Store that does not answer; the oldest give way."""


class Capture:
    """The lines of one run. Any thread may add to them."""

    def __init__(
        self, delivery: Delivery, limit: int, redact: Redact | None, changed: Callable[["Capture"], object]
    ) -> None:
        self.key = key_of(JobRef(delivery.job.queue, delivery.job.id))
        self.since = delivery.now
        """When the run began."""
        self.written: bytes | None = None
        """What its key holds, as far as this run knows."""
        self.overtaken = False
        """A later run writes its lines there."""
        self._attempt = delivery.attempt
        self._limit = limit
        self._redact = redact
        self._changed = changed
        self._ring = Ring(limit)
        self._parts: dict[str, str] = {}
        """What was printed since the last end of a line, by stream."""
        self._earlier = Captured([])
        self._open = True
        self._told = False
        self._lock = threading.RLock()

    @property
    def is_empty(self) -> bool:
        """Whether it never had a line."""
        return not self._ring.behind

    def add(self, at: float, source: str, logger: str, text: str) -> None:
        """Take in text of whole lines. What comes when the run is over is not the job's."""
        if self._redact is not None:
            text = redacted(self._redact, text)
        with self._lock:
            if not self._open:
                return
            for line in text[-self._limit :].splitlines() or [""]:
                self._ring.add(Line(at, self._attempt, source, sendable(logger), sendable(line)))
            self._tell()

    def write(self, stream: str, text: str) -> None:
        """Take in what was printed; the end of a line that does not come is not waited for beyond its length."""
        with self._lock:
            whole, newline, rest = (self._parts.get(stream, "") + text).rpartition("\n")
            if len(rest) > self._limit:
                whole, newline, rest = whole + newline + rest, "\n", ""
            self._parts[stream] = rest
            if newline:
                self.add(now(), stream, "", whole)

    def close(self) -> None:
        """The run is over."""
        with self._lock:
            for stream, rest in self._parts.items():
                if rest:
                    self.add(now(), stream, "", rest)
            self._open = False
            self._tell()

    def follow(self, value: bytes | None) -> None:
        """Take in what the key holds: lines of earlier runs, or of this one when the answer to a write was lost."""
        found = read(value)
        self.written = value
        self.overtaken = found.since > self.since
        if found.since < self.since:
            self._earlier = found

    def value(self) -> bytes:
        """What its key is to hold."""
        with self._lock:
            self._told = False
            both = self._ring.following(self._earlier)
            return msgspec.json.encode(Captured(list(both.lines), both.first, self.since, self._open))

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._changed(self)


class Recorder:
    """One worker's."""

    def __init__(self, store: Store, redact: Redact | None) -> None:
        self._store = store
        self._redact = redact
        self._changed: dict[Capture, None] = {}
        """Those with something to write, the oldest first."""
        self._wake = asyncio.Event()

    def layer(self, limit: int) -> Middleware:
        """What captures the last ``limit`` bytes of each job of a task."""

        async def record(current: Current, handler: Handler) -> Any:
            loop = asyncio.get_running_loop()

            def changed(capture: Capture) -> None:
                # A thread may have more to say than its loop lives.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self.note, capture)

            capture = Capture(current.delivery, limit, self._redact, changed)
            # In the job's own context, which ends with it.
            capturing.set(capture)
            try:
                return await handler(current)
            finally:
                capture.close()

        return record

    async def run(self) -> None:
        """Write until cancelled, and then the rest."""
        hear_streams()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                with suppress(BrokerError):
                    await self.write_all()
                # The next second's lines go together.
                await asyncio.sleep(PERIOD)
        finally:
            with anyio.move_on_after(1, shield=True), suppress(BrokerError):
                await self.write_all()

    def note(self, capture: Capture) -> None:
        """It has something to write."""
        self._changed[capture] = None
        if len(self._changed) > MOST:
            del self._changed[next(iter(self._changed))]
        self._wake.set()

    async def write_all(self) -> None:
        """Write each that has something once: what it has to say meanwhile waits for the next time."""
        jobs: dict[str, list[Capture]] = {}
        for capture in self._changed:
            jobs.setdefault(capture.key, []).append(capture)
        changed = list(jobs.values())
        for first in range(0, len(changed), AT_ONCE):
            answers = await asyncio.gather(*map(self._write, changed[first : first + AT_ONCE]), return_exceptions=True)
            for error in answers:
                if error is not None:
                    raise error

    async def _write(self, runs: Sequence[Capture]) -> None:
        """A job's, the earliest first: it would be overtaken otherwise, and its lines lost."""
        for capture in sorted(runs, key=lambda run: run.since):
            await self._write_one(capture)

    async def _write_one(self, capture: Capture) -> None:
        self._changed.pop(capture, None)
        if capture.is_empty:
            return
        try:
            if capture.written is None:
                capture.follow((await self._store.get(capture.key)).value)
            while not capture.overtaken:
                value = capture.value()
                if await self._store.swap(capture.key, capture.written, value, ttl=KEPT):
                    capture.written = value
                    return
                capture.follow((await self._store.get(capture.key)).value)
        except BaseException:
            self.note(capture)
            raise
