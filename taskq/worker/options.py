"""How a worker works, as one value."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from taskq.pools import Selection
from taskq.worker.undertaker import Caps


class PoolOptions(Struct, frozen=True, kw_only=True):
    """One of a worker's pools."""

    name: str
    selection: Selection
    slots: int
    broker: str


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """How a worker works; seconds throughout."""

    pools: Sequence[PoolOptions]
    known: Sequence[str] = ()
    """Queues that its globs may take in before any job is seen there."""
    lease: float = 30.0
    grace: float = 25.0
    on_lost_contact: Literal["cancel", "finish"] = "cancel"
    stall_warning: float = 2.0
    stall_limit: float = 600.0
    growth_warning: int = 0
    until: Literal["asked", "idle", "empty"] = "asked"
    """When to end: when asked to; also when nothing is due or runs; also when nothing is scheduled either."""
    max_jobs: int | None = None
    """End after so many runs."""
    schedules: bool = True
    """Whether to fire schedules. A worker that ends by itself never does: it is there for what is there."""
    lag_target: float | None = None
    """How late its event loop may be before fewer jobs run at once; None: nobody looks."""
    slots_min: int = 1
    """Slots that a pool keeps in any case, if it has as many."""
    dead: Caps = Caps()
    """What a queue keeps of dead letters."""
    build: str | None = None
    """What the code calls itself."""
    threads: bool = True
    """False under a virtual clock: everything happens in the loop, and nothing that only looks whether it should."""

    @property
    def slots(self) -> int:
        """Jobs it runs at once."""
        return sum(pool.slots for pool in self.pools)

    @property
    def queues(self) -> Sequence[str]:
        """What it fetches from, as it was said."""
        return [pattern for pool in self.pools for pattern in pool.selection.patterns]
