"""The name under which jobs are handed to this process: whoever adds one for which a fetch waits, sends it along.

A message is a hint here as well: what was handed over and is not heard of, is found by the next look.
"""

from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from taskq.job import Delivery
from taskq_postgres.lanes import Connection
from taskq_postgres.queries import Queries
from taskq_postgres.rows import new_token, read_handed
from taskq_postgres.verbs import Fetched, Offer

Queues = tuple[str, ...]


class Ear:
    """Of one backend. Its name is a secret of those who may read the tables, so nobody else sends a job there."""

    def __init__(self, sql: Queries, channel: str, hand: Callable[[Delivery], None]) -> None:
        self._sql = sql
        self._name = new_token()
        self._channel = f"{channel}_{self._name:x}"
        self._hand = hand
        self._heard: dict[Queues, int | None] = {}
        """The token of the last job that came for a fetch of these."""
        self._looked: set[int] = set()
        """Of jobs that were found by a look, and whose messages may still come."""
        self._asking: set[Queues] = set()
        self.hears = False
        """Whether a session listens."""
        self.closed = False
        """Nothing is to be handed over any more."""

    async def listen(self, connection: Connection) -> None:
        """Hear by this session, as long as it lives."""
        self._looked.clear()
        await connection.add_listener(self._channel, self._hear)
        await connection.execute(self._sql.live, self._name)
        self.hears = True

    async def leave(self, connection: Connection) -> None:
        """Wait for nothing any more: once it is closed, and what was handed over for all that it served is found."""
        await connection.execute(self._sql.leave, self._name)

    def served(self) -> list[Queues]:
        """The queues of each fetch that was offered."""
        return list(self._heard)

    async def ask(
        self, queues: Sequence[str], fetch: Callable[[Offer | None], Awaitable[Fetched]], *, waits: bool
    ) -> Fetched:
        """Fetch from these queues, with an offer if there is one to make; what it brings came in no other way."""
        key, waits = tuple(queues), waits and self.hears and not self.closed
        # One at a time, or what one brings may have been heard of before another renewed the offer.
        if key in self._asking or not (waits or key in self._heard):
            return await fetch(None)
        self._asking.add(key)
        try:
            fetched = await fetch(Offer(self._name, self._heard.setdefault(key, None), waits))
        finally:
            self._asking.discard(key)
        token = fetched.handed
        if token is None:
            return fetched
        if token == self._heard[key]:
            return replace(fetched, deliveries=[])
        self._heard[key] = token
        self._looked.add(token)
        return fetched

    def _hear(self, connection: object, process: int, channel: str, payload: object) -> None:  # noqa: ARG002  # the driver's
        said = read_handed(str(payload))
        if said.token in self._looked:
            self._looked.discard(said.token)
            return
        self._heard[said.queues] = said.token
        self._hand(said.delivery)
