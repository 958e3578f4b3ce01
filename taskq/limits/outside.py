"""Limits outside of jobs: in a web handler, in a script."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from taskq.errors import BrokerError
from taskq.events import Events
from taskq.limits.holding import Holding
from taskq.limits.keeper import Keeper, holder, keeping
from taskq.store import Store

T = TypeVar("T")


@asynccontextmanager
async def holding(store: Store, lease: float, events: Events, limit: Holding[T]) -> AsyncGenerator[T]:
    """Enter a limit; a place is renewed meanwhile, and is free a lease after the death of this process."""
    keeper = Keeper(store, lease, events)
    token = keeping.set(keeper)
    try:
        async with limit as granted:
            renewing = asyncio.get_running_loop().create_task(_renew(keeper))
            try:
                yield granted
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
