"""Counts what happens in a worker, and writes it to the Store: once a minute at most, whatever happens.

Each worker writes keys of its own, one for each ten minutes, and always the whole of it: so workers never wait for one
another, a write may be repeated, and what is too old lapses by itself.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio

from taskq.errors import BrokerError
from taskq.events import Events, JobAgain, JobEvent, JobFinished, SettlementRefused
from taskq.history.tally import AGAIN, BACK, LATE, Counts, Tally, bucket_of, merged, written
from taskq.store import Store

PERIOD = 60.0
"""Seconds between two writes: what a worker that is killed takes with it."""
KEPT = 72 * 3600.0
"""Seconds that what ``taskq worker`` counts is kept, unless something else is said."""
SLICE = 600
"""Seconds that are counted together."""
SHELF = 36 * SLICE
"""Seconds of slices that are found under one key."""


_RAN = frozenset({"returned", "failed", "discarded", AGAIN})
"""After these the job was run, though the loop's clock may not have moved meanwhile (uvloop's goes by milliseconds)."""


def shelf_key(start: int) -> str:
    """Where the slices are named that begin in these hours, as ``start/worker``."""
    return f"history:{start // SHELF * SHELF}"


def slice_key(name: str) -> str:
    """What one worker counted in one slice."""
    return f"history:{name}"


class Historian:
    """One open app's: its workers share it, as they share its events."""

    def __init__(self, store: Store, events: Events, keep: float) -> None:
        self._store = store
        self._events = events
        self._keep = keep
        self._name = secrets.token_hex(6)
        self._workers = 0
        self._ends: Sequence[Callable[[], None]] = ()
        self._new: Tally = {}
        """What happened since the last write."""
        self._start = 0
        self._slice: Tally = {}
        """What the key of the slice holds."""
        self._value: bytes | None = None
        """The same, as it was written last."""
        self._unsaved = False
        """Whether it is unknown if that was taken."""
        self._happened = asyncio.Event()
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Count while a worker runs, and write until cancelled; then the rest."""
        self._workers += 1
        if self._workers == 1:
            self._ends = self._follow()
        try:
            while True:
                await self._happened.wait()
                # A minute's worth goes together.
                await asyncio.sleep(PERIOD)
                with suppress(BrokerError):
                    await self.write()
        finally:
            self._workers -= 1
            if not self._workers:
                for end in self._ends:
                    end()
            with anyio.move_on_after(1, shield=True), suppress(BrokerError):
                await self.write()

    async def write(self) -> None:
        """Write what happened since the last time, if anything did."""
        async with self._writing:
            if self._new or self._unsaved:
                await self._write()

    async def _write(self) -> None:
        now = (await self._store.get(shelf_key(self._start))).now
        start = int(now) // SLICE * SLICE
        if start != self._start and not self._unsaved:
            await self._begin(start)
        self._happened.clear()
        new, self._new = self._new, {}
        self._slice, self._unsaved = merged([self._slice, new]), True
        await self._save(written(self._slice))

    async def _begin(self, start: int) -> None:
        await self._store.add(shelf_key(start), [f"{start}/{self._name}"], ttl=self._keep + SLICE)
        self._start, self._slice, self._value = start, {}, None

    async def _save(self, value: bytes) -> None:
        """Nobody else writes there: what is there and not known is of a write whose answer was lost."""
        key = slice_key(f"{self._start}/{self._name}")
        while not await self._store.swap(key, self._value, value, ttl=self._keep):
            self._value = (await self._store.get(key)).value
        self._value, self._unsaved = value, False

    def _follow(self) -> Sequence[Callable[[], None]]:
        return [
            self._events.subscribe(JobFinished, self._on_finished),
            self._events.subscribe(JobAgain, self._on_again),
            self._events.subscribe(SettlementRefused, self._on_refused),
        ]

    def _on_finished(self, event: JobFinished) -> None:
        self._count(event, event.end, event.wait, event.run)

    def _on_again(self, event: JobAgain) -> None:
        self._count(event, AGAIN if event.counted else BACK, event.wait, event.run)

    def _on_refused(self, event: SettlementRefused) -> None:
        ends = self._count(event, LATE, 0.0, 0.0)
        if event.end is not None:
            # It was told before the broker was asked, and did not come to be.
            ends[event.end] = ends.get(event.end, 0) - 1

    def _count(self, event: JobEvent, end: str, wait: float, run: float) -> dict[str, int]:
        key = (event.queue, event.task)
        counts = self._new.get(key)
        if counts is None:
            counts = self._new[key] = Counts()
            self._happened.set()
        ends = counts.ends
        ends[end] = ends.get(end, 0) + 1
        if run or end in _RAN:
            for histogram, seconds in ((counts.waits, wait), (counts.runs, run)):
                bucket = bucket_of(seconds)
                histogram[bucket] = histogram.get(bucket, 0) + 1
        return ends
