"""What the servers are, as found when the backend opens: how old, how durable, and what they may throw away."""

import logging
from collections.abc import Mapping, Sequence

from msgspec import Struct
from redis import exceptions

from taskq.broker import Durability
from taskq.errors import BrokerRejected
from taskq_redis.lane import Lane
from taskq_redis.wire import Reply

_log = logging.getLogger("taskq.redis")

FLOOR = (7, 0)
"""Scripts that run on a full server, and ranges by the first word ZRANGE: Redis 7.0, Valkey 7.2."""

_DURABILITIES: Sequence[Durability] = ("process", "seconds", "disk")
"""The weakest first."""


class Standing(Struct, frozen=True, kw_only=True):
    """One server, or the weakest of a cluster's."""

    version: tuple[int, ...]
    clustered: bool
    durability: Durability
    eviction: str
    """Its ``maxmemory-policy``; ``noeviction`` where it has no ``maxmemory``."""


async def look(lane: Lane) -> Standing:
    """Ask one server. Raises what the driver raises."""
    info = _parsed(await lane.call(b"INFO"))
    version = tuple(int(part) for part in info.get("redis_version", "0").split(".")[:3] if part.isdigit())
    evicts = info.get("maxmemory", "0") != "0"
    eviction = info.get("maxmemory_policy", "noeviction") if evicts else "noeviction"
    return Standing(
        version=version,
        clustered=info.get("cluster_enabled") == "1" or info.get("redis_mode") == "cluster",
        durability=await _durability(lane, info, evicting=eviction.startswith("allkeys-")),
        eviction=eviction,
    )


def weakest(standings: Sequence[Standing]) -> Standing:
    """What all servers of a cluster promise together."""
    return Standing(
        version=min(standing.version for standing in standings),
        clustered=any(standing.clustered for standing in standings),
        durability=next(one for one in _DURABILITIES if any(standing.durability == one for standing in standings)),
        eviction=min((standing.eviction for standing in standings), key=_safety),
    )


def check(standing: Standing, name: str) -> None:
    """Refuse servers that are too old, and say what a full one may throw away."""
    if standing.version < FLOOR:
        shown = ".".join(map(str, standing.version))
        raise BrokerRejected(f"{name}: this is Redis {shown}; taskq needs Redis 7.0 or Valkey 7.2, or newer")
    if standing.eviction.startswith("allkeys-"):
        _log.warning(
            "%s: with maxmemory-policy %s a full server throws jobs away, so none is promised to survive: "
            "set noeviction",
            name,
            standing.eviction,
        )
    elif standing.eviction.startswith("volatile-"):
        _log.warning(
            "%s: with maxmemory-policy %s a full server throws away results, and what limits, batches and schedules "
            "remember: set noeviction",
            name,
            standing.eviction,
        )


async def _durability(lane: Lane, info: Mapping[str, str], *, evicting: bool) -> Durability:
    if evicting or info.get("aof_enabled") != "1":
        return "process"
    try:
        found = await lane.call(b"CONFIG", b"GET", b"appendfsync")
    except exceptions.ResponseError:
        # Managed servers forbid it: the weaker promise is the safe guess.
        return "seconds"
    return "disk" if found == [b"appendfsync", b"always"] else "seconds"


def _parsed(info: Reply) -> Mapping[str, str]:
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else ""
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, separator, value in lines if separator}


def _safety(eviction: str) -> int:
    return 0 if eviction.startswith("allkeys-") else 1 if eviction.startswith("volatile-") else 2
