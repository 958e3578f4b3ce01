"""Find the servers, learn what they are, hand over the parts; end all connections when the context is left."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from anyio import CancelScope
from msgspec.structs import replace

from taskq.broker import Backend, Traits
from taskq.store import Store
from taskq_redis import scripts, settings, standing
from taskq_redis.admin import RedisAdmin
from taskq_redis.broker import RedisBroker
from taskq_redis.client import Client
from taskq_redis.doctor import doctor
from taskq_redis.extender import extending
from taskq_redis.faults import DRIVER_ERRORS, translated
from taskq_redis.hints import RedisHints
from taskq_redis.keys import Keys
from taskq_redis.listener import Listener
from taskq_redis.results import RedisResults
from taskq_redis.servers import Cluster, Servers, Single
from taskq_redis.settings import Settings, Target
from taskq_redis.standing import Standing
from taskq_redis.store import RedisStore
from taskq_redis.tools import Tools

_BATCH = 10_000
"""Jobs a call; they go in parts of a thousand, in one write."""


@asynccontextmanager
async def connect(url: str, **options: object) -> AsyncGenerator[Backend]:
    """A backend on Redis or Valkey, shared by every process that names the same servers and namespace.

    ``redis://host:6379/0``, ``rediss://…``, ``unix:///path``, ``redis+sentinel://host,host/service`` or
    ``redis+cluster://host,host``; a server that is part of a cluster is found out. See
    :class:`~taskq_redis.settings.Settings` for the options, in the query string or by keyword; every other one goes to
    the driver's connection (``ssl_ca_certs=…``).
    """
    target, chosen = settings.read(url, options)
    async with AsyncExitStack() as stack:
        servers, found = await _found(target, chosen)
        stack.push_async_callback(_shielded, servers)
        standing.check(found, target.name, waits_for_disk=chosen.wait_disk, wait_replicas=chosen.wait_replicas)
        keys, loaded = Keys(chosen.namespace, chosen.partitions), scripts.load()
        client = Client(servers, target.name)
        tools = Tools(client, loaded, keys, chosen, found.clustered)
        store = RedisStore(tools)
        # Whoever may not run scripts, or not on these keys, learns it here and not from a job's defer.
        await store.get("opened")
        listener = Listener(servers.connect, keys, target.name, clustered=found.clustered, patience=chosen.patience)
        stack.push_async_callback(_shielded, listener)
        broker = RedisBroker(tools, _traits(found, chosen), listener)
        # Before the listener: jobs may be on their way to it.
        stack.push_async_callback(_shielded, broker)

        cold = replace(chosen, hot_wait=0.0)

        def own_tools() -> Tools:
            own = Client(_servers(target, cold, clustered=found.clustered), target.name)
            return Tools(own, loaded, keys, chosen, found.clustered)

        @asynccontextmanager
        async def open_store() -> AsyncGenerator[Store]:
            own = own_tools()
            try:
                yield RedisStore(own)
            finally:
                await _shielded(own.client.servers)

        yield Backend(
            broker=broker,
            extender=lambda: extending(own_tools()),
            results=RedisResults(tools, listener),
            hints=RedisHints(client, keys, listener),
            store=store,
            open_store=open_store,
            discard_and_settle=broker.discard_and_settle if keys.count == 1 and not found.clustered else None,
            admin=RedisAdmin(tools),
            doctor=doctor(servers, target.name, chosen),
            rouse=broker.rouse,
        )


async def _found(target: Target, chosen: Settings) -> tuple[Servers, Standing]:
    """The servers, and what they are."""
    servers = _servers(target, chosen, clustered=target.kind == "cluster")
    try:
        found = standing.weakest([await standing.look(lane) for lane in (await servers.masters()).values()])
        if found.clustered == isinstance(servers, Cluster):
            return servers, found
        await servers.close()
        servers = _servers(target, chosen, clustered=found.clustered)
        return servers, standing.weakest([await standing.look(lane) for lane in (await servers.masters()).values()])
    except DRIVER_ERRORS as error:
        await servers.close()
        raise translated(error, target.name) from error
    except BaseException:
        await servers.close()
        raise


def _servers(target: Target, chosen: Settings, *, clustered: bool) -> Servers:
    kind = Cluster if clustered else Single
    return kind(target, chosen.patience, chosen.hot_wait)


def _traits(found: Standing, chosen: Settings) -> Traits:
    traits = Traits(
        durability=found.durability,
        idempotent=True,
        dedup_window=chosen.dedup_window,
        unique=True,
        ordered=chosen.partitions == 1,
        groups=True,
        fair=chosen.partitions == 1,
        exclusive=True,
        fenced=True,
        exact_attempts=True,
        max_size=chosen.max_size,
        max_batch=_BATCH,
        pipelined=True,
    )
    if chosen.wait_replicas:
        return replace(traits, durability="replicated")
    return replace(traits, durability="disk") if chosen.wait_disk else traits


async def _shielded(part: Servers | RedisBroker | Listener) -> None:
    with CancelScope(shield=True):
        await part.close()
