"""Limits outside of jobs: in a web handler, in a script."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from taskq.errors import BrokerError
from taskq.limits.holding import Holding
from taskq.limits.keeper import Keeper, holder, keeping
from taskq.store import Store


@asynccontextmanager
async def holding(store: Store, lease: float, limit: Holding) -> AsyncGenerator[None]:
    """Enter a limit; a place is renewed meanwhile, and is free a lease after the death of this process."""
    keeper = Keeper(store, lease)
    token = keeping.set(keeper)
    try:
        async with limit:
            renewing = asyncio.get_running_loop().create_task(_renew(keeper))
            try:
                yield
            finally:
                renewing.cancel()
                await asyncio.wait({renewing})
    finally:
        keeping.reset(token)


async def _renew(keeper: Keeper) -> None:
    while keeper.places:
        await asyncio.sleep(keeper.lease / 3)
        with suppress(BrokerError):
            await keeper.renew(keeper.store, {holder(member) for member in keeper.places})
