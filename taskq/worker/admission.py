"""Asks the limits of a task before a job of it runs."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
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

    def asked(self, limit: RateLimit, *, within: float = inf, looks: bool = False) -> Asked:
        """What it asks of a rate; ``within``: see there."""
        its_turn = history_of(self.run.delivery).turn == self.key_of(limit)
        return Asked(1.0, PATIENCE, lines_up=True, its_turn=its_turn, within=within, looks=looks)


class Turn(Struct, frozen=True, order=True):
    """When a limit would grant a run."""

    wait: float
    """Seconds; inf where nobody knows."""
    comes_new: bool = True
    """False: the run has stood in the line for it, and a turn that was waited for is not left unused."""


class Overtaken(Struct, frozen=True):
    """Others were granted what it had seen, and another way would begin sooner now; nothing was taken."""


class Admission:
    """Lets a run begin, or says what becomes of it instead."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def admit(self, run: Run, limits: Limits) -> Outcome | None:
        """None when it may begin; it may have waited for that a moment."""
        current = run.current
        assert current is not None, "only what prepare() let pass is asked for"  # noqa: S101
        asking = Asking(run, lambda limit: limits.store_key(limit, *current.arguments))
        try:
            answer = await self._begin(asking, [asking.needs(way) for way in limits.ways])
        except ConfigError as error:
            return Undecodable(error)
        except BrokerError:
            # The settler waits for the broker, and tells.
            return Limited(PATIENCE)
        if not isinstance(answer, tuple):
            return answer
        current.admit(answer)
        return None

    async def release(self, run: Run) -> None:
        """The run has ended, or did not begin, and its places are free."""
        await run.close()
        await self._keeper.free(run.delivery.receipt)

    async def _begin(self, asking: Asking, ways: Sequence[tuple[Limit, ...]]) -> tuple[Limit, ...] | Outcome:
        """The limits that let it begin, or what becomes of it instead."""
        if len(ways) == 1 and sum(isinstance(limit, RateLimit) for limit in ways[0]) < 2:
            refused = await self._take(asking, ways[0], inf)
            assert not isinstance(refused, Overtaken), "there is no other way"  # noqa: S101
            return ways[0] if refused is None else refused
        while True:
            # Each time round somebody else was granted something, or has taken a place in a line.
            answer = await self._by_turn(asking, ways)
            if not isinstance(answer, Overtaken):
                return answer

    async def _by_turn(
        self, asking: Asking, ways: Sequence[tuple[Limit, ...]]
    ) -> tuple[Limit, ...] | Outcome | Overtaken:
        """Look at all, and take the way whose turn comes first, or the next one where a place of it is gone.

        Of each the rate that lets it wait longest comes first, as it is to stand in that line, and places last, as they
        are looked at when its turn has come.
        """
        turns = {limit: await self._turn(asking, limit) for limit in dict.fromkeys(chain.from_iterable(ways))}
        ranked = sorted([(max(turns[limit] for limit in way), at) for at, way in enumerate(ways)])
        refused: Outcome | Overtaken | None = None
        for (_, at), (after, _) in pairwise([*ranked, (Turn(inf), -1)]):
            way = sorted(ways[at], key=lambda limit: (isinstance(limit, RateLimit), turns[limit]), reverse=True)
            refused = await self._take(asking, way, after.wait + PATIENCE)
            if refused is None:
                return ways[at]
            if isinstance(refused, Limited | Overtaken):
                # Who has a place in one line takes none in another.
                break
        assert refused is not None, "there is a way"  # noqa: S101
        return refused

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

    async def _take(self, asking: Asking, way: Sequence[Limit], within: float) -> Outcome | Overtaken | None:
        """Take all of these, or nothing but a place in a line; not even that if its turn comes after ``within``."""
        taken: list[tuple[RateLimit, float]] = []
        refused: Outcome | Overtaken | None
        for limit in way:
            match limit:
                case RateLimit():
                    refused = await self._take_rate(asking, limit, within, taken)
                case Concurrency():
                    held = await self._place(asking.run, limit, asking.key_of(limit))
                    refused = None if held else Raised(Discard(SKIPPED))
            if refused is not None:
                for granted, moment in taken:
                    await self._keeper.give_back(granted.rate, asking.key_of(granted), moment, 1.0)
                return refused
        return None

    async def _take_rate(
        self, asking: Asking, limit: RateLimit, within: float, taken: list[tuple[RateLimit, float]]
    ) -> Limited | Overtaken | None:
        if limit.n == inf:
            return None
        key = asking.key_of(limit)
        answer = await self._keeper.ask(limit.rate, key, asking.asked(limit, within=within))
        if not answer.granted and answer.wait > within:
            return Overtaken()
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
        if await self._take_place(key, member, limit.n):
            return True
        # What this job's earlier delivery left behind would make it skip itself.
        stale = [held for held in (await self._keeper.store.get(key)).members if held.endswith(own)]
        if not stale:
            self._keeper.refuse(key, inf)
            return False
        await self._keeper.store.discard(key, stale)
        return await self._take_place(key, member, limit.n)

    async def _take_place(self, key: str, member: str, n: int) -> bool:
        taken = await self._keeper.take(key, member, n)
        if taken:
            self._keeper.took(key, member, 0.0)
        return taken
