"""Atomic keys with a time to live: the second seam. Limits, batches, schedules and presence stand on it.

``taskq.testing.StoreContract`` is this contract as tests; the clause numbers (C-K1 …) name them. One key is one slot:
every call is legal on a cluster and costs one round trip (C-K6). Time is the backend's clock, and nothing outlives
its ``ttl`` (C-K7). Errors leave as :class:`~taskq.errors.BrokerUnavailable` or
:class:`~taskq.errors.BrokerRejected`, as with the broker.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class Entry(Struct, frozen=True):
    """What a key holds: absent keys hold no value and no members."""

    value: bytes | None
    members: frozenset[str]
    now: float
    """The backend's clock, in seconds since the epoch."""


class Store(Protocol):
    """Keys that hold a value, a set of members, or both. A key lives while it holds anything."""

    async def get(self, key: str) -> Entry:
        """Value and live members of a key, and the backend's clock (C-K1)."""
        ...

    async def swap(self, key: str, old: bytes | None, new: bytes | None, *, ttl: float | None = None) -> bool:
        """Set the value to ``new`` if it is ``old``; None is absent (C-K2).

        ``ttl`` seconds from now the whole key ends, members and all; None leaves the end as it was.
        """
        ...

    async def add(
        self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
    ) -> bool:
        """Add all members or none: False when the key would then have more than ``ceiling`` (C-K3).

        A member with a ``ttl`` lapses after that many seconds and frees its place; adding it again before renews
        it; one without never lapses (C-K5). A member that was discarded is passed over (C-K4).
        """
        ...

    async def discard(self, key: str, members: Sequence[str]) -> int:
        """Remove members and answer how many are left.

        A member that was there and is discarded cannot come back while the key lives (C-K4); one that had a
        ``ttl`` is remembered only until that would have lapsed, so that a key that lives for ever does not grow.
        """
        ...
