"""Asks the limits of a task before a job of it runs."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain
from math import inf

from msgspec import Struct

from taskq.errors import BrokerError, ConfigError, Discard
from taskq.limits.declared import Limit, Limits
from taskq.limits.keeper import Keeper
from taskq.limits.limit import Concurrency, RateLimit
from taskq.limits.line import Asked
from taskq.outcome import Limited, Outcome, Raised, Undecodable
from taskq.report import history_of
from taskq.worker.run import Run

PATIENCE = 1.0
"""Seconds a job waits for its turn in its slot; a longer wait it spends in the queue, and comes back for its turn."""

SKIPPED = "skipped_overlap"


class Asking(Struct, frozen=True):
    """A run that wants to begin."""

    run: Run
    key_of: Callable[[Limit], str]
    """Where a limit counts it; raises ConfigError when that cannot be said."""

    def needs(self, way: Sequence[Limit]) -> tuple[Limit, ...]:
        """Those of these limits that it has to be granted by."""
        first = self.run.delivery.attempt == 1
        return tuple(limit for limit in way if not (first and isinstance(limit, RateLimit) and limit.retries))

    def asked(self, limit: RateLimit, *, looks: bool = False) -> Asked:
        """What it asks of a rate."""
        its_turn = history_of(self.run.delivery).turn == self.key_of(limit)
        return Asked(1.0, PATIENCE, lines_up=True, its_turn=its_turn, looks=looks)


class Turn(Struct, frozen=True, order=True):
    """When a limit would grant a run."""

    wait: float
    """Seconds; inf where nobody knows."""
    comes_new: bool = True
    """False: the run has stood in the line for it, and a turn that was waited for is not left unused."""


class Admission:
    """Lets a run begin, or says what becomes of it instead."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def admit(self, run: Run, limits: Limits) -> Outcome | None:
        """None when it may begin; it may have waited for that a moment."""
        current = run.current
        assert current is not None, "only what prepare() let pass is asked for"  # noqa: S101
        asking = Asking(run, lambda limit: limits.store_key(limit, *current.arguments))
        way: Sequence[Limit] = ()
        refused: Outcome | None = None
        try:
            ways = [asking.needs(way) for way in limits.ways]
            if len(ways) > 1 or sum(isinstance(limit, RateLimit) for limit in ways[0]) > 1:
                ways = await self._by_turn(asking, ways)
            for way in ways:
                refused = await self._take(asking, way)
                # Who has a place in one line takes none in another.
                if refused is None or isinstance(refused, Limited):
                    break
        except ConfigError as error:
            return Undecodable(error)
        except BrokerError:
            # The settler waits for the broker, and tells.
            return Limited(PATIENCE)
        if refused is None:
            current.admit(way)
        return refused

    async def release(self, run: Run) -> None:
        """The run has ended, or did not begin, and its places are free."""
        await run.close()
        await self._keeper.free(run.delivery.receipt)

    async def _by_turn(self, asking: Asking, ways: Sequence[tuple[Limit, ...]]) -> list[tuple[Limit, ...]]:
        """The ways, the one whose turn comes first before the others; nothing is taken.

        Of each the rate that lets it wait longest comes first, as it is to stand in that line, and places last, as they
        are looked at when its turn has come.
        """
        turns = {limit: await self._turn(asking, limit) for limit in dict.fromkeys(chain.from_iterable(ways))}
        last_first = [sorted(way, key=lambda limit: (isinstance(limit, RateLimit), turns[limit])) for way in ways]
        in_order = sorted(last_first, key=lambda way: max(turns[limit] for limit in way))
        return [tuple(reversed(way)) for way in in_order]

    async def _turn(self, asking: Asking, limit: Limit) -> Turn:
        key = asking.key_of(limit)
        match limit:
            case RateLimit():
                if limit.n == inf:
                    return Turn(0.0)
                asked = asking.asked(limit, looks=True)
                return Turn((await self._keeper.ask(limit.rate, key, asked)).wait, not asked.its_turn)
            case Concurrency():
                return Turn(0.0 if await self._keeper.has_room(key, limit.n) else inf)

    async def _take(self, asking: Asking, way: Sequence[Limit]) -> Outcome | None:
        """Take all of these, or nothing but a place in a line."""
        taken: list[tuple[RateLimit, float]] = []
        for limit in way:
            match limit:
                case RateLimit():
                    refused = await self._take_rate(asking, limit, taken)
                case Concurrency():
                    held = await self._place(asking.run, limit, asking.key_of(limit))
                    refused = None if held else Raised(Discard(SKIPPED))
            if refused is not None:
                for granted, moment in taken:
                    await self._keeper.give_back(granted.rate, asking.key_of(granted), moment, 1.0)
                return refused
        return None

    async def _take_rate(
        self, asking: Asking, limit: RateLimit, taken: list[tuple[RateLimit, float]]
    ) -> Outcome | None:
        if limit.n == inf:
            return None
        key = asking.key_of(limit)
        answer = await self._keeper.ask(limit.rate, key, asking.asked(limit))
        if not answer.granted:
            self._keeper.refuse(key, answer.wait)
            return Limited(answer.wait, key)
        if answer.moment is not None:
            taken.append((limit, answer.moment))
        if answer.wait > 0:
            await asyncio.sleep(answer.wait)
        return None

    async def _place(self, run: Run, limit: Concurrency, key: str) -> bool:
        own = f"/{run.delivery.job.id}"
        member = run.delivery.receipt + own
        if await self._keeper.take(key, member, limit.n):
            self._keeper.took(key, member, 0.0)
            return True
        # What this job's earlier delivery left behind would make it skip itself.
        stale = [held for held in (await self._keeper.store.get(key)).members if held.endswith(own)]
        if not stale:
            self._keeper.refuse(key, inf)
            return False
        await self._keeper.store.discard(key, stale)
        return await self._keeper.take(key, member, limit.n)
