"""Limits on an open Store: everything here is a call of it."""

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from contextvars import ContextVar

from taskq.errors import BrokerError, ConfigError
from taskq.limits.line import Answer, Asked, answer, read, written
from taskq.limits.rates import Rate, State
from taskq.sharing import Sharing
from taskq.store import Store

KEPT = 60.0
"""Seconds a key outlives what it says, so that a slow caller finds it."""

_STEP = 0.001
"""Seconds, doubled with each swap lost to another process: they then meet less often than once in two swaps."""


class Keeper:
    """Asks about the same key share a ``get`` and a ``swap``."""

    def __init__(self, store: Store, lease: float) -> None:
        self.store = store
        self.lease = lease
        """Seconds after which the place of a dead holder is free again."""
        self.places: dict[str, tuple[str, int]] = {}
        """Those held now: member to key and ceiling. A member begins with its holder's receipt."""
        self._sharing = Sharing(self._answer)

    async def ask(self, rate: Rate, key: str, asked: Asked) -> Answer:
        """What a rate limit's key answers now; what it grants is granted."""
        return await self._sharing.ask((key, rate), asked)

    async def pause(self, rate: Rate, key: str, until: float | None, seconds: float) -> None:
        """Grant nothing before this moment of the server's clock, or for so many seconds."""
        swapped = False
        while not swapped:
            entry = await self.store.get(key)
            line = read(entry.value)
            line.paused = max(line.paused, entry.now + seconds if until is None else until)
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

    async def has_room(self, key: str, n: int) -> bool:
        """Whether one of ``n`` places is free now."""
        return len((await self.store.get(key)).members) < n

    async def free(self, receipt: str) -> None:
        """Give up the places of this holder; what cannot be freed now lapses by itself."""
        for member in [member for member in self.places if holder(member) == receipt]:
            key, _ = self.places.pop(member)
            with suppress(BrokerError):
                await self.store.discard(key, [member])

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
