"""Asks the limits of a task before a job of it runs."""

import asyncio
from math import inf

from taskq.errors import BrokerError, ConfigError, Discard
from taskq.limits.keeper import Keeper
from taskq.limits.limit import Concurrency, Limit, Limits, RateLimit
from taskq.limits.line import Asked
from taskq.outcome import Limited, Outcome, Raised, Undecodable
from taskq.report import history_of
from taskq.worker.run import Run

PATIENCE = 1.0
"""Seconds a job waits for its turn in its slot; a longer wait it spends in the queue, and comes back for its turn."""

SKIPPED = "skipped_overlap"


class Admission:
    """Lets a run begin, or says what becomes of it instead."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def admit(self, run: Run, limits: Limits) -> Outcome | None:
        """None when all limits grant it; it may have waited for them a moment."""
        assert run.current is not None, "only what prepare() let pass is asked for"  # noqa: S101
        args, kwargs = run.current.arguments
        try:
            for limit in limits.limits:
                if run.delivery.attempt == 1 and isinstance(limit, RateLimit) and limit.retries:
                    continue
                refused = await self._ask(run, limit, limits.store_key(limit, args, kwargs))
                if refused is not None:
                    return refused
        except ConfigError as error:
            return Undecodable(error)
        except BrokerError:
            # The settler waits for the broker, and tells.
            return Limited(PATIENCE)
        return None

    async def release(self, run: Run) -> None:
        """The run has ended, or did not begin, and its places are free."""
        await run.close()
        await self._keeper.free(run.delivery.receipt)

    async def _ask(self, run: Run, limit: Limit, key: str) -> Outcome | None:
        match limit:
            case RateLimit():
                return await self._ask_rate(run, limit, key) if limit.n < inf else None
            case Concurrency(overlap="skip"):
                return None if await self._place(run, limit, key) else Raised(Discard(SKIPPED))
            case _:
                # Its group let it come.
                return None

    async def _ask_rate(self, run: Run, limit: RateLimit, key: str) -> Outcome | None:
        its_turn = history_of(run.delivery).turn == key
        answer = await self._keeper.ask(limit.rate, key, Asked(1.0, PATIENCE, lines_up=True, its_turn=its_turn))
        if not answer.granted:
            return Limited(answer.wait, key)
        if answer.wait > 0:
            await asyncio.sleep(answer.wait)
        return None

    async def _place(self, run: Run, limit: Concurrency, key: str) -> bool:
        own = f"/{run.delivery.job.id}"
        member = run.delivery.receipt + own
        if await self._keeper.take(key, member, limit.n):
            return True
        # What this job's earlier delivery left behind would make it skip itself.
        stale = [held for held in (await self._keeper.store.get(key)).members if held.endswith(own)]
        if not stale:
            return False
        await self._keeper.store.discard(key, stale)
        return await self._keeper.take(key, member, limit.n)
