"""Two storages as one: a carrier that has the four verbs alone, and a companion beside it."""

import re
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext

import pytest

from taskq.broker import Backend
from taskq.companion import pair
from taskq.companion.moves import LEDGER
from taskq.companion.row import read
from taskq.companion.rows import PREFIX
from taskq.store import Store
from taskq.testing.broker_contract import Deployed
from taskq.testing.capability_clauses import CapabilityClauses
from taskq.testing.connection_clauses import ConnectionClauses
from taskq.testing.deployment import Deployment
from taskq.testing.enqueue_clauses import EnqueueClauses
from taskq.testing.fetch_clauses import FetchClauses
from taskq.testing.group_clauses import GroupClauses
from taskq.testing.settle_clauses import SettleClauses


@pytest.mark.anyio
@pytest.mark.unskipped
class CompanionContract(
    EnqueueClauses, FetchClauses, GroupClauses, SettleClauses, ConnectionClauses, CapabilityClauses, Deployed
):
    """The contract without what only the order of one line, or one database, can give. None of it may be skipped."""

    async def test_what_is_left_out_is_not_promised(self, backend: Backend) -> None:
        traits = backend.broker.traits
        assert (traits.ordered, traits.fair, backend.transactions) == (False, False, None)


async def _remembered(store: Store, name: str) -> bool:
    if re.search(rf"{PREFIX}(queues|later:\w+|buried:[\w-]+)(?![:\w])", name):
        return True
    key = re.search(rf"{PREFIX}job:[\w:-]+", name)
    if key is None:
        return False
    entry = await store.get(key.group())
    row = read(entry.value)
    return row is not None and row.state == "ended" and row.kept <= entry.now and row.until < entry.now + 2 * LEDGER


def paired(carrier: Deployment, keeper: Deployment) -> Deployment:
    """A deployment of both; of the carrier only its verbs are used. A restart is the companion's."""
    halves: list[tuple[Backend, Backend, Backend]] = []

    @asynccontextmanager
    async def open_both() -> AsyncGenerator[Backend]:
        async with AsyncExitStack() as stack:
            carrying = await stack.enter_async_context(carrier.open())
            keeping = await stack.enter_async_context(keeper.open())
            bare = Backend(broker=carrying.broker, extender=carrying.extender, rouse=carrying.rouse)
            backend = await stack.enter_async_context(pair(nullcontext(bare), nullcontext(keeping), lambda _: None))
            halves.append((backend, carrying, keeping))
            yield backend

    @asynccontextmanager
    async def sever(backend: Backend) -> AsyncGenerator[None]:
        ((carrying, keeping),) = [(one, other) for both, one, other in halves if both is backend]
        assert carrier.sever is not None
        assert keeper.sever is not None
        async with carrier.sever(carrying), keeper.sever(keeping):
            yield

    async def residue() -> Collection[str]:
        """Besides what is remembered for a while: names of queues, portions of time, counts, ids of ended jobs."""
        async with keeper.open() as backend:
            assert backend.store is not None
            kept = [name for name in await keeper.residue() if not await _remembered(backend.store, name)]
        return [*await carrier.residue(), *kept]

    return Deployment(
        open=open_both,
        residue=residue,
        restart=keeper.restart,
        sever=sever,
        driver_errors=(*carrier.driver_errors, *keeper.driver_errors),
    )
