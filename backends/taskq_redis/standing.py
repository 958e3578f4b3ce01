"""What the servers are, as found when the backend opens: how old, how durable, and what they may throw away."""

import logging
from collections.abc import Mapping, Sequence

from msgspec import Struct
from redis import exceptions

from taskq.broker import Durability
from taskq.errors import BrokerRejected, BrokerUnavailable
from taskq_redis.lane import Lane

_log = logging.getLogger("taskq.redis")

CONNECTIONS = 4
"""What a process holds at most to a node: one for its verbs, one that listens, one that extends, one for a Store."""

FLOOR = (7, 0)
"""Scripts that run on a full server, and ranges by the first word ZRANGE: Redis 7.0, Valkey 7.2."""

WAITS_FOR_DISK = (7, 2)
"""The command WAITAOF: Redis 7.2, Valkey."""

_FSYNCS = ("off", "unknown", "no", "everysec", "always")
"""The weakest first; what cannot be read is guessed low."""


class Standing(Struct, frozen=True, kw_only=True):
    """One server, or the weakest of a cluster's."""

    version: tuple[int, ...]
    clustered: bool
    appendfsync: str
    """Of its append-only file; ``off`` where it has none, ``unknown`` where CONFIG is forbidden."""
    eviction: str
    """Its ``maxmemory-policy``; ``noeviction`` where it has no ``maxmemory``."""
    clients: tuple[int, int] = (1, 10_000)
    """How many there are, the one that asks among them, and how many there may be."""
    replicas: int = 0
    """How many are connected."""

    @property
    def durability(self) -> Durability:
        if self.appendfsync == "off" or self.eviction.startswith("allkeys-"):
            return "process"
        return "disk" if self.appendfsync == "always" else "seconds"


async def look(lane: Lane) -> Standing:
    """Ask one server. Raises what the driver raises."""
    told = await info(lane)
    version = tuple(int(part) for part in told.get("redis_version", "0").split(".")[:3] if part.isdigit())
    evicts = told.get("maxmemory", "0") != "0"
    eviction = told.get("maxmemory_policy", "noeviction") if evicts else "noeviction"
    appendfsync = await _appendfsync(lane) if told.get("aof_enabled") == "1" else "off"
    return Standing(
        version=version,
        clustered=told.get("cluster_enabled") == "1" or told.get("redis_mode") == "cluster",
        appendfsync=appendfsync,
        eviction=eviction,
        clients=clients(told),
        replicas=int(told.get("connected_slaves", 0)),
    )


def clients(told: Mapping[str, str]) -> tuple[int, int]:
    """How many there are, and how many there may be, by what a server tells of itself."""
    return int(told.get("connected_clients", 0)), int(told.get("maxclients", 10_000))


async def info(lane: Lane) -> Mapping[str, str]:
    """What a server tells of itself. Raises what the driver raises."""
    reply = await lane.call(b"INFO")
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, separator, value in lines if separator}


def weakest(standings: Sequence[Standing]) -> Standing:
    """What all servers of a cluster promise together."""
    return Standing(
        version=min(standing.version for standing in standings),
        clustered=any(standing.clustered for standing in standings),
        appendfsync=min((standing.appendfsync for standing in standings), key=_FSYNCS.index),
        eviction=min((standing.eviction for standing in standings), key=_safety),
        clients=min((standing.clients for standing in standings), key=lambda one: one[1] - one[0]),
        replicas=min(standing.replicas for standing in standings),
    )


def check(standing: Standing, name: str, *, waits_for_disk: bool = False, wait_replicas: int = 0) -> None:
    """Refuse servers that are too old or would run out of connections; say what else they lack."""
    if standing.version < FLOOR:
        shown = ".".join(map(str, standing.version))
        raise BrokerRejected(f"{name}: this is Redis {shown}; taskq needs Redis 7.0 or Valkey 7.2, or newer")
    used, most = standing.clients
    if most - used + 1 < CONNECTIONS:
        raise BrokerUnavailable(
            f"{name}: {used - 1} of {most} connections to a node are in use, and this process needs up to "
            f"{CONNECTIONS}: raise maxclients, and the limit of open files with it, or start fewer processes"
        )
    if waits_for_disk and (standing.version < WAITS_FOR_DISK or standing.appendfsync in ("off", "no")):
        raise BrokerRejected(
            f"{name}: wait_disk needs Redis 7.2, Valkey 7.2, or newer, with appendonly yes and appendfsync everysec or "
            "always: set them, or do without it"
        )
    if standing.replicas < wait_replicas:
        _log.warning(
            "%s: %d of the %d replicas that wait_replicas asks for are connected: until they are, every defer fails",
            name,
            standing.replicas,
            wait_replicas,
        )
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


async def _appendfsync(lane: Lane) -> str:
    try:
        found = await lane.call(b"CONFIG", b"GET", b"appendfsync")
    except exceptions.ResponseError:
        # Managed servers forbid it.
        return "unknown"
    match found:
        case [_, bytes(setting)]:
            return setting.decode()
        case _:
            return "unknown"


def _safety(eviction: str) -> int:
    return 0 if eviction.startswith("allkeys-") else 1 if eviction.startswith("volatile-") else 2
