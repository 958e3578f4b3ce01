"""What a run may use besides its arguments, and why it may not."""

import asyncio
from math import inf

from msgspec import Struct, field

from taskq.broker import Transactions
from taskq.codec import Codec
from taskq.errors import ConfigError, MissingCapability
from taskq.ownbatch import Prepare
from taskq.store import Store


class Means(Struct, frozen=True):
    """Parts of the backend, as far as it has them, and what else its worker lends it."""

    loop: asyncio.AbstractEventLoop | None = None
    """The worker's."""
    store: Store | None = None
    transactions: Transactions | None = None
    codec: Codec = field(default_factory=Codec)
    grace: float = inf
    """Seconds that a run has when its worker drains."""
    resumes: bool = True
    """Whether the job runs again when a run of it was cut off."""
    in_transaction: bool = False
    """Whether the whole run is one transaction."""
    prepare: Prepare | None = None
    """What a job passes that the handler adds to its batch."""
    apart: bool = False
    """Whether the run is in a process of its own, which has nothing of the above."""

    def refuse_apart(self, what: str) -> None:
        """Raises ConfigError in a process of its own, which has no way to it."""
        if self.apart:
            raise ConfigError(f"{what} cannot be reached from another process: return it, or use executor='thread'")

    def store_for(self, what: str, *, in_transaction: bool) -> Store:
        """The backend's Store; raises ConfigError where it cannot be used, MissingCapability where there is none."""
        self.refuse_apart(what)
        if self.in_transaction or in_transaction:
            raise ConfigError(
                f"{what} would remember what this transaction may yet undo: inside one, write your own row instead"
            )
        if self.store is None:
            raise MissingCapability(f"this broker has no store for {what}: pair it with a companion store")
        return self.store
