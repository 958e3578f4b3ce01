"""What an operator should know of the servers: what they may lose, throw away or run out of."""

import time
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from taskq.broker import Doctor, Finding
from taskq_redis import standing
from taskq_redis.faults import DRIVER_ERRORS, translated
from taskq_redis.servers import Servers
from taskq_redis.settings import Settings
from taskq_redis.standing import Standing

_SKEW = 1.0
"""Seconds between a server's clock and ours from which the moments that callers name are visibly off."""

_FULL = 0.8


def doctor(servers: Servers, name: str, chosen: Settings) -> Doctor:
    """Examines every server that takes writes."""

    async def examine() -> Sequence[Finding]:
        findings: list[Finding] = []
        clustered = False
        try:
            for node, lane in (await servers.masters()).items():
                found, info = await standing.look(lane), await standing.info(lane)
                where = f" of {node}" if found.clustered else ""
                findings += [
                    replace(finding, subject=f"{finding.subject}{where}")
                    for finding in (
                        _version(info),
                        _persistence(found, info, chosen),
                        _eviction(found, info),
                        _memory(info),
                        _replicas(found, chosen),
                        _connections(info),
                        _clock(info, time.time()),
                    )
                ]
                clustered = found.clustered
        except DRIVER_ERRORS as error:
            raise translated(error, name) from error
        return [*findings, _partitions(chosen, clustered=clustered)]

    return examine


def _partitions(chosen: Settings, *, clustered: bool) -> Finding:
    message = f"each queue has {chosen.partitions}"
    if chosen.partitions > 1 and not clustered:
        return Finding("partitions", "warning", f"{message}, all on one server", "leave partitions out of the URL")
    return Finding("partitions", "ok", message)


def _version(info: Mapping[str, str]) -> Finding:
    name = "Valkey " + info["valkey_version"] if "valkey_version" in info else "Redis " + info.get("redis_version", "?")
    return Finding("version", "ok", f"{name}, {'a cluster' if info.get('cluster_enabled') == '1' else 'no cluster'}")


def _persistence(found: Standing, info: Mapping[str, str], chosen: Settings) -> Finding:
    if info.get("aof_last_write_status", "ok") != "ok":
        message = "the last write of the append-only file failed"
        return Finding("persistence", "error", message, "see the server's log, and give its disk room")
    match found.appendfsync:
        case "always":
            return Finding("persistence", "ok", "appendfsync always: a job is on the disk when its defer is answered")
        case setting if chosen.wait_disk:
            message = f"appendfsync {setting}, and wait_disk: a job is on the disk when its defer is answered"
            return Finding("persistence", "ok", message)
        case "off":
            message = "no append-only file: a restart loses every job since the last snapshot, or all"
            return Finding("persistence", "warning", message, "CONFIG SET appendonly yes")
        case "unknown":
            message = "appendonly yes; appendfsync cannot be read, so the last seconds may be lost in a crash"
            return Finding("persistence", "warning", message, "allow CONFIG GET, or see the provider's pages")
        case setting:
            message = f"appendonly yes, appendfsync {setting}: a crash of the machine may lose the last seconds"
            return Finding("persistence", "warning", message, "CONFIG SET appendfsync always, if that is too much")


def _eviction(found: Standing, info: Mapping[str, str]) -> Finding:
    policy, remedy = info.get("maxmemory_policy", "noeviction"), "CONFIG SET maxmemory-policy noeviction"
    if found.eviction.startswith("allkeys-"):
        return Finding("eviction", "error", f"{policy}: a full server throws jobs away", remedy)
    if found.eviction.startswith("volatile-"):
        message = f"{policy}: a full server throws away results, and what limits, batches and schedules remember"
        return Finding("eviction", "error", message, remedy)
    if policy != "noeviction":
        message = f"{policy}, which has no effect while there is no maxmemory"
        return Finding("eviction", "warning", message, remedy)
    return Finding("eviction", "ok", policy)


def _memory(info: Mapping[str, str]) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    message = f"{used >> 20} MB used of {f'{most >> 20} MB' if most else 'no maxmemory'}"
    if not most:
        remedy = "set maxmemory below what the machine has: a full server refuses jobs, a full machine ends the server"
        return Finding("memory", "warning", message, remedy)
    if used > _FULL * most:
        return Finding("memory", "warning", message, "raise maxmemory, or let workers drain the queues")
    return Finding("memory", "ok", message)


def _replicas(found: Standing, chosen: Settings) -> Finding:
    there, wanted = found.replicas, chosen.wait_replicas
    message = f"{there} connected, wait_replicas={wanted}"
    if there < wanted:
        return Finding("replicas", "error", f"{message}: every defer fails", "start replicas, or lower wait_replicas")
    if there and not wanted:
        remedy = "wait_replicas=1 in the URL has each job on a replica before its defer is answered"
        return Finding("replicas", "warning", f"{message}: a failover may lose the last jobs", remedy)
    return Finding("replicas", "ok", message)


def _connections(info: Mapping[str, str]) -> Finding:
    (used, most), each = standing.clients(info), standing.CONNECTIONS
    room = (most - used) // each
    message = f"{used} of {most} in use, room for {room} more processes of {each} each"
    if not room or used > _FULL * most:
        return Finding("connections", "warning", message, "raise maxclients, and the limit of open files with it")
    return Finding("connections", "ok", message)


def _clock(info: Mapping[str, str], now: float) -> Finding:
    said = info.get("server_time_usec")
    if said is None:
        return Finding("clock", "ok", "not told")
    ahead = int(said) / 1e6 - now
    message = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) > _SKEW:
        return Finding("clock", "warning", message, "run NTP on both: a run_at is a moment of the server's clock")
    return Finding("clock", "ok", message)
