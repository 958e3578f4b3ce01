"""Two storages as one: a carrier that has the four verbs alone, and a companion beside it."""

import re
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

from taskq.broker import Backend
from taskq.companion import pair
from taskq.companion.moves import LEDGER
from taskq.companion.row import read
from taskq.companion.rows import PREFIX
from taskq.store import Store
from taskq.testing.deployment import Deployment


async def _remembered(store: Store, name: str) -> bool:
    if re.search(rf"{PREFIX}(queues|later:\w+)(?![:\w])", name):
        return True
    key = re.search(rf"{PREFIX}job:[\w:-]+", name)
    if key is None:
        return False
    entry = await store.get(key.group())
    row = read(entry.value)
    return row is not None and row.state == "ended" and row.kept <= entry.now and row.until < entry.now + 2 * LEDGER


def paired(carrier: Deployment, keeper: Deployment) -> Deployment:
    """A deployment of both; of the carrier only its verbs are used."""

    @asynccontextmanager
    async def bare() -> AsyncGenerator[Backend]:
        async with carrier.open() as backend:
            yield Backend(broker=backend.broker, extender=backend.extender)

    @asynccontextmanager
    async def open_both() -> AsyncGenerator[Backend]:
        async with pair(bare(), keeper.open(), lambda _: None) as backend:
            yield backend

    async def residue() -> Collection[str]:
        """Besides what is remembered for a while: names of queues, portions of time, ids of ended jobs."""
        async with keeper.open() as backend:
            assert backend.store is not None
            kept = [name for name in await keeper.residue() if not await _remembered(backend.store, name)]
        return [*await carrier.residue(), *kept]

    return Deployment(open=open_both, residue=residue)
