"""Dead letters within their caps: where a queue has too many, the oldest ones go, and whoever listens is told."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf

from msgspec import Struct

from taskq.broker import Admin, Backend
from taskq.errors import BrokerError, MissingCapability
from taskq.events import DeadLettersDropped, Events
from taskq.job import DeadLetter, JobRef
from taskq.worker.run import Decided

PAGE = 1000
"""Dead letters in one call."""

Forget = Callable[[Sequence[Decided]], Awaitable[None]]


class Caps(Struct, frozen=True):
    """What a queue may hold of dead letters."""

    count: float = inf
    size: float = inf
    """Bytes of calls and outcomes."""


class Letter(Struct, frozen=True, order=True):
    """A dead letter as far as caps ask after it, the oldest first."""

    died: float
    id: str
    size: int


class Undertaker:
    """One worker's part in keeping dead letters within their caps.

    It looks when it has set aside a tenth of what there was room for, so a queue exceeds a cap by a hundredth for each
    worker, and drops a tenth more than it must, so that a full queue is not looked through for every dead letter.
    """

    def __init__(self, admin: Admin, events: Events, caps: Caps) -> None:
        self._admin = admin
        self._events = events
        self._caps = caps
        self._until_look: Counter[str] = Counter()
        """How many more dead letters of a queue are set aside here before it is looked at."""
        self._due: set[str] = set()
        self._wake = asyncio.Event()

    def following(self, forget: Forget) -> Forget:
        """``forget``, and then a note of the dead letters among what was settled."""

        async def forget_and_note(decided: Sequence[Decided]) -> None:
            self._note(decided)
            await forget(decided)

        return forget_and_note

    async def run(self) -> None:
        """Look at the queues that may hold too many, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                await self._look(self._due.pop())

    def _note(self, decided: Sequence[Decided]) -> None:
        for run, decision in decided:
            if run.settled and isinstance(decision.settlement, DeadLetter):
                self._count_down(run.delivery.job.queue, -1)

    def _count_down(self, queue: str, change: int) -> None:
        self._until_look[queue] += change
        if self._until_look[queue] <= 0:
            self._due.add(queue)
            self._wake.set()

    async def _look(self, queue: str) -> None:
        # What is set aside meanwhile may come too late for this look, and counts for the next one.
        self._until_look[queue] = 0
        # A broker out of reach is asked again with the next dead letter.
        with suppress(BrokerError):
            self._count_down(queue, await self._trim(queue))

    async def _trim(self, queue: str) -> int:
        """Drop what is too much; the answer is how many dead letters later to look again."""
        if self._caps.size == inf:
            (stats,) = await self._admin.stats([queue])
            if stats.dead <= self._caps.count:
                return _tenth(self._caps.count - stats.dead)
        letters = await self._letters(queue)
        dropped = too_many(letters, self._caps)
        if dropped:
            purged = await self._purge([JobRef(queue, letter.id) for letter in dropped])
            sizes = [letter.size for letter, gone in zip(dropped, purged, strict=True) if gone]
            if sizes:
                self._events.emit(DeadLettersDropped(queue=queue, jobs=len(sizes), size=sum(sizes)))
        left = letters[len(dropped) :]
        average = max(1.0, sum(letter.size for letter in left) / max(1, len(left)))
        room = self._caps.size / average - len(left)
        return _tenth(min(self._caps.count - len(left), room))

    async def _letters(self, queue: str) -> Sequence[Letter]:
        """All that there are, the oldest first."""
        letters: list[Letter] = []
        after: str | None = None
        while True:
            page = await self._admin.list_jobs(queue, "dead", after=after, limit=PAGE)
            letters += [Letter(one.due, one.job.id, len(one.job.body) + len(one.outcome or b"")) for one in page]
            if len(page) < PAGE:
                return sorted(letters)
            after = page[-1].job.id

    async def _purge(self, refs: Sequence[JobRef]) -> Sequence[bool]:
        parts = [refs[first : first + PAGE] for first in range(0, len(refs), PAGE)]
        return [purged for part in parts for purged in await self._admin.purge(part)]


def too_many(letters: Sequence[Letter], caps: Caps) -> Sequence[Letter]:
    """Of letters by age, the oldest ones: down to nine tenths of the caps, when one is exceeded."""
    count, size = len(letters), sum(letter.size for letter in letters)
    if count <= caps.count and size <= caps.size:
        return ()
    for number, letter in enumerate(letters):
        if count - number <= _nine_tenths(caps.count) and size <= _nine_tenths(caps.size):
            return letters[:number]
        size -= letter.size
    return letters


def _nine_tenths(cap: float) -> float:
    return cap if cap == inf else cap - cap // 10


def _tenth(room: float) -> int:
    return max(1, int(room // 10))


def undertaker_of(backend: Backend, events: Events, caps: Caps) -> Undertaker | None:
    """Nobody where there are no caps; raises MissingCapability where dead letters cannot be counted."""
    if caps == Caps():
        return None
    if backend.admin is None:
        raise MissingCapability(
            "dead_count and dead_size need to look at dead letters, and this broker has no administration: pair it "
            "with a companion store, or choose another broker"
        )
    return Undertaker(backend.admin, events, caps)
