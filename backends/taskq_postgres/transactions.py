"""Part-taking in transactions: on the caller's own connection, or on one that this backend lends."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

from anyio import CancelScope

from taskq.broker import Traits
from taskq.errors import BrokerRejected
from taskq.job import Delivery, Enqueued, Job, Lease, Settlement
from taskq_postgres.faults import DRIVER_ERRORS, translating
from taskq_postgres.guests import Guest, guest
from taskq_postgres.lanes import Connection, Lanes
from taskq_postgres.verbs import Verbs


class JoinedBroker:
    """Enqueues and settles with the commit of the caller's transaction."""

    def __init__(self, guest: Guest, shown: str, traits: Traits, verbs: Verbs) -> None:
        self._guest = guest
        self._shown = shown
        self._traits = traits
        self._verbs = verbs

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        with translating(self._shown, self._guest.errors):
            return await self._verbs.enqueue(self._guest, jobs, tells=True)

    async def fetch(  # the protocol names the arguments
        self,
        queues: Sequence[str],  # noqa: ARG002
        limit: int,  # noqa: ARG002
        *,
        lease: float,  # noqa: ARG002
        wait: float,  # noqa: ARG002
    ) -> list[Delivery]:
        raise BrokerRejected("a fetch takes no part in a transaction: fetch from the backend's own broker")

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        with translating(self._shown, self._guest.errors):
            settled = await self._verbs.settle(self._guest, settlements, tells=True)
        return [receipt is not None for receipt in settled]

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:  # noqa: ARG002  # as above
        raise BrokerRejected("an extension takes no part in a transaction: extend by the backend's own broker")


class PostgresTransactions:
    """Transactions of callers, and those that this backend lends."""

    def __init__(self, shown: str, traits: Traits, verbs: Verbs, lanes: Lanes) -> None:
        self._shown = shown
        self._traits = traits
        self._verbs = verbs
        self._lanes = lanes

    def join(self, connection: object) -> JoinedBroker:
        """A broker on a caller's connection to the same database; what waits hears of the commit."""
        return JoinedBroker(guest(connection, self._shown), self._shown, self._traits, self._verbs)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Connection]:
        """A connection inside a transaction, one at a time in this process: others wait, so be brief."""
        with translating(self._shown):
            connection = await self._lanes.take()
        try:
            transaction = connection.transaction()
            with translating(self._shown):
                await transaction.start()
            try:
                yield connection
            except BaseException:
                # The caller goes on when the transaction has ended, whatever cancelled it.
                with CancelScope(shield=True), suppress(*DRIVER_ERRORS):
                    await transaction.rollback()
                raise
            with CancelScope(shield=True), translating(self._shown):
                await transaction.commit()
        finally:
            self._lanes.give(connection)
