"""Counts what happens to tasks in one event loop, and hands it over about once a second."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

import anyio
from msgspec.structs import replace

from taskq.errors import BrokerUnavailable, Signal
from taskq.events import Events, JobAgain, JobEvent, JobFinished
from taskq.notify.notices import Mark, Notice, gathered
from taskq.report import Redact, line_of, report
from taskq.webhook import Kind

BEAT = 1.0
"""Seconds between two hand-overs, or the window if it is shorter: in each a flood costs one call a task."""
SHOWN = 200
"""Characters of an error that are told."""
DEAD = frozenset({"failed", "quarantined", "lost"})

_log = logging.getLogger("taskq.notify")

Noticed = tuple[Notice, BaseException | None]
"""And the last error, which is put into words when it is handed over."""
HandOver = Callable[[Notice], Awaitable[object]]
ReadMarks = Callable[[], Awaitable[Mapping[str, Mark]]]


class Watch:
    """Listens to an app's events, and costs jobs that return a look into a dict."""

    def __init__(
        self,
        hand_over: HandOver,
        read_marks: ReadMarks,
        *,
        wanted: Collection[Kind],
        silent: Collection[str],
        window: float,
        redact: Redact | None,
    ) -> None:
        self._hand_over = hand_over
        self._read_marks = read_marks
        self._wanted = wanted
        self._silent = silent
        """The tasks that tell: were they told of, a failure would feed itself."""
        self._window = window
        self._redact = redact
        self._loop = asyncio.get_running_loop()
        self._wake, self._closing = asyncio.Event(), asyncio.Event()
        self._noticed: dict[str, Noticed] = {}
        self._returned: dict[str, float] = {}
        self._marks: Mapping[str, Mark] = {}
        self._marks_due = 0.0
        self._handed: dict[str, float] = {}
        """Of each task the mark for which it was handed over that it has returned since."""

    def listen(self, events: Events) -> Callable[[], None]:
        """Begin; the answer ends it."""
        ends = [events.subscribe(JobFinished, self._finished)]
        if "failed" in self._wanted:
            ends.append(events.subscribe(JobAgain, self._again))

        def end() -> None:
            for subscription in ends:
                subscription()

        return end

    async def run(self) -> None:
        """Hand over what was noticed until closed, and then the rest. Raises nothing."""
        while not self._closing.is_set():
            await self._wake.wait()
            self._wake.clear()
            await self._flush()
            with anyio.move_on_after(min(BEAT, self._window)):
                await self._closing.wait()
        await self._flush()

    def close(self) -> None:
        """End :meth:`run`."""
        self._closing.set()
        self._wake.set()

    def _finished(self, event: JobFinished) -> None:
        if not self._concerns(event):
            return
        if event.end in DEAD and "dead" in self._wanted:
            self._notice(event, Notice(task=event.task, dead=1, job=event.id, error=event.end, at=time.time()))
        elif event.end == "returned" and "recovered" in self._wanted:
            self._returned[event.task] = time.time()
            if event.task in self._marks or self._loop.time() >= self._marks_due:
                self._wake.set()

    def _again(self, event: JobAgain) -> None:
        if event.counted and event.error is not None and not isinstance(event.error, Signal) and self._concerns(event):
            self._notice(event, Notice(task=event.task, failed=1, job=event.id, at=time.time()))

    def _concerns(self, event: JobEvent) -> bool:
        # Workers of the same app in other threads have a watch of their own.
        return event.task not in self._silent and asyncio.get_running_loop() is self._loop

    def _notice(self, event: JobFinished | JobAgain, notice: Notice) -> None:
        before = self._noticed.get(event.task)
        self._noticed[event.task] = (notice if before is None else gathered([before[0], notice]), event.error)
        self._wake.set()

    async def _flush(self) -> None:
        try:
            while self._noticed:
                await self._hand_over_one(*self._noticed.popitem())
            await self._look_for_recoveries()
        except BrokerUnavailable:
            # The worker says so, and knows no more than this when it is over.
            self._wake.set()
        except Exception as error:  # noqa: BLE001 - what tells of failures is to fail nothing
            _log.warning("nobody is told of a failure: %s", line_of(error))
            if self._noticed:
                self._wake.set()

    async def _hand_over_one(self, task: str, noticed: Noticed) -> None:
        notice, error = noticed
        try:
            await self._hand_over(self._worded(notice, error))
        except BrokerUnavailable:
            later = self._noticed.get(task)
            self._noticed[task] = noticed if later is None else (gathered([notice, later[0]]), later[1])
            raise

    def _worded(self, notice: Notice, error: BaseException | None) -> Notice:
        if not isinstance(error, Exception):
            return notice
        said = report(error, attempt=1, at=notice.at, redact=self._redact)
        return replace(notice, error=f"{said.type}: {said.message}"[:SHOWN])

    async def _look_for_recoveries(self) -> None:
        """Notice the first return of each task that was told of since it last failed."""
        if "recovered" not in self._wanted:
            return
        if self._loop.time() >= self._marks_due:
            self._marks = await self._read_marks()
            self._marks_due = self._loop.time() + self._window
        for task, mark in self._marks.items():
            returned = self._returned.get(task, 0.0)
            if returned > mark.at and self._handed.get(task) != mark.at:
                await self._hand_over(Notice(task=task, returned=returned))
                self._handed[task] = mark.at
