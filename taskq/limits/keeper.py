"""Limits on an open Store: everything here is a call of it."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from contextvars import ContextVar

from taskq.errors import BrokerError, ConfigError
from taskq.events import Events, LimitGranted, LimitRefused, PlaceLeft, PlaceLost, PlaceTaken
from taskq.limits.line import Answer, Asked, answer, read, written
from taskq.limits.rates import Rate, State
from taskq.sharing import Sharing
from taskq.store import Store

KEPT = 60.0
"""Seconds a key outlives what it says, so that a slow caller finds it."""

_STEP = 0.001
"""Seconds, doubled with each swap lost to another process: they then meet less often than once in two swaps."""


_KEY = re.compile(r"limit:(.*?):(?:retries:)?(?:window|bucket|leaky|points|places):")


class Keeper:
    """Asks about the same key share a ``get`` and a ``swap``."""

    def __init__(self, store: Store, lease: float, events: Events | None = None) -> None:
        self.store = store
        self._events = events or Events()
        self.lease = lease
        """Seconds after which the place of a dead holder is free again."""
        self.places: dict[str, tuple[str, int]] = {}
        """Those held now: member to key and ceiling. A member begins with its holder's receipt."""
        self._since: dict[str, float] = {}
        self._sharing = Sharing(self._answer)

    async def ask(self, rate: Rate, key: str, asked: Asked) -> Answer:
        """What a rate limit's key answers now; what it grants is granted."""
        answered = await self._sharing.ask((key, rate), asked)
        if answered.granted and not asked.looks and LimitGranted in self._events.listeners:
            self._events.emit(LimitGranted(limit=name_of(key), wait=answered.wait))
        return answered

    def refuse(self, key: str, after: float) -> None:
        """Tell that somebody had to go without."""
        self._events.emit(LimitRefused(limit=name_of(key), after=after))

    async def pause(self, rate: Rate, key: str, until: float | None, seconds: float, recover: float) -> None:
        """Grant nothing before this moment of the server's clock, or for so many seconds; then more and more."""
        swapped = False
        while not swapped:
            entry = await self.store.get(key)
            line = read(entry.value)
            line.pause(entry.now, entry.now + seconds if until is None else until, recover)
            ttl = line.ends(rate) - entry.now + KEPT
            swapped = ttl <= KEPT or await self.store.swap(key, entry.value, written(line), ttl=ttl)

    async def add(self, rate: Rate, key: str, cost: float) -> None:
        """Count so much more, or less, than was granted."""
        await self._count(rate, key, lambda granted, now: rate.take(granted, now, cost))

    async def give_back(self, rate: Rate, key: str, moment: float, cost: float) -> None:
        """Count what was granted for this moment no more: nobody has used it."""
        await self._count(rate, key, lambda granted, now: rate.give_back(granted, moment, now, cost))

    async def _count(self, rate: Rate, key: str, count: Callable[[State, float], State]) -> None:
        swapped = False
        while not swapped:
            entry = await self.store.get(key)
            line = read(entry.value)
            line.granted = count(line.granted, entry.now)
            ttl = max(0.0, line.ends(rate) - entry.now) + KEPT
            swapped = await self.store.swap(key, entry.value, written(line), ttl=ttl)

    async def take(self, key: str, member: str, n: int) -> bool:
        """Hold one of ``n`` places; False when none is free."""
        taken = await self.store.add(key, [member], ttl=self.lease, ceiling=n)
        if taken:
            self.places[member] = (key, n)
        return taken

    def took(self, key: str, member: str, wait: float) -> None:
        """Tell that a place was taken, after so many seconds."""
        self._since[member] = time.monotonic()
        self._events.emit(LimitGranted(limit=name_of(key), wait=wait))
        self._events.emit(PlaceTaken(limit=name_of(key)))

    async def leave(self, key: str, member: str) -> None:
        """Give up a place; what cannot be freed now lapses by itself."""
        self.places.pop(member, None)
        since = self._since.pop(member, None)
        if since is not None:
            self._events.emit(PlaceLeft(limit=name_of(key), held=time.monotonic() - since))
        with suppress(BrokerError):
            await self.store.discard(key, [member])

    async def has_room(self, key: str, n: int) -> bool:
        """Whether one of ``n`` places is free now."""
        return len((await self.store.get(key)).members) < n

    async def free(self, receipt: str) -> None:
        """Give up the places of this holder."""
        for member, (key, _) in [*self.places.items()]:
            if holder(member) == receipt:
                await self.leave(key, member)

    async def renew(self, store: Store, receipts: Collection[str]) -> Collection[str]:
        """Renew the places of those who hold these receipts, and answer who of them has lost one to somebody else.

        May be called from another thread, with a Store of its own.
        """
        lost: set[str] = set()
        for member, (key, n) in list(self.places.items()):
            receipt = holder(member)
            if receipt not in receipts:
                continue
            held = await store.add(key, [member], ttl=self.lease, ceiling=n)
            if member not in self.places:
                # Left meanwhile, and perhaps as the last one: a key that was empty knows nobody who left.
                await store.discard(key, [member])
            elif not held:
                lost.add(receipt)
                self._events.emit(PlaceLost(limit=name_of(key)))
        return lost

    async def _answer(self, named: tuple[str, Rate], asked: Sequence[Asked]) -> Sequence[Answer]:
        key, rate = named
        step = _STEP
        while True:
            entry = await self.store.get(key)
            line = read(entry.value)
            before = written(line)
            answers = answer(rate, line, entry.now, asked)
            new = written(line)
            ttl = line.ends(rate) - entry.now + KEPT
            if new == before or await self.store.swap(key, entry.value, new, ttl=ttl):
                return answers
            step *= 2
            await asyncio.sleep(random.random() * step)  # noqa: S311 - it spreads, and hides nothing


def name_of(key: str) -> str:
    """Of the limit, or of the task that it belongs to, whose key this is."""
    found = _KEY.match(key)
    return key if found is None else found[1]


def holder(member: str) -> str:
    """Whose place it is."""
    return member.rpartition("/")[0]


keeping: ContextVar[Keeper] = ContextVar("taskq.keeping")


def keeper() -> Keeper:
    """That of the running job's worker; raises ConfigError outside of one."""
    try:
        return keeping.get()
    except LookupError:
        raise ConfigError(
            "a limit is known only inside a running job of a worker with a Store; elsewhere write "
            "`async with app.limited(limit):`"
        ) from None
