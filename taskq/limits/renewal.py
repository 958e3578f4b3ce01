"""Keeps the places of running jobs, from the thread that extends their leases."""

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from taskq.errors import BrokerError
from taskq.limits.keeper import Keeper
from taskq.store import Store


class Renewal:
    """Opens a Store for the calling event loop when there is a place to renew, and not before."""

    def __init__(self, keeper: Keeper, open_store: Callable[[], AbstractAsyncContextManager[Store]]) -> None:
        self._keeper = keeper
        self._open_store = open_store
        self._store: Store | None = None
        self._opened = AsyncExitStack()

    async def renew(self, receipts: Collection[str]) -> Collection[str]:
        """Renew what the holders of these receipts hold; answers who has lost a place to somebody else."""
        if not self._keeper.places:
            return ()
        try:
            if self._store is None:
                self._store = await self._opened.enter_async_context(self._open_store())
            return await self._keeper.renew(self._store, receipts)
        except BrokerError:
            # The next third of the lease is in time.
            return ()

    async def close(self) -> None:
        """Close what was opened; called in the loop that renewed."""
        self._store = None
        await self._opened.aclose()
