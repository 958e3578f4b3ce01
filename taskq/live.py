"""What an app has open in an event loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from taskq.batcher import Batcher
from taskq.broker import Backend, Transactions
from taskq.brokers import Sites, everywhere
from taskq.collect import Collector, Sender
from taskq.config import Settings
from taskq.definition import Definition
from taskq.depends import Scoped
from taskq.errors import ConfigError
from taskq.events import Event, Events
from taskq.flow.stages import replay
from taskq.history import Historian
from taskq.job import Job
from taskq.keptitems import gather
from taskq.outbox import Relay, open_outbox
from taskq.payloads import with_payloads
from taskq.pools import DEFAULT
from taskq.spool import Spooling, Ways, spooling
from taskq.spoolfile import Bounds, SpoolFile


class Door(Struct, frozen=True):
    """The way to one broker for those who defer."""

    backend: Backend
    sending: Backend
    """The same with the spool and the outbox, if there are any."""
    batcher: Batcher


class Live(Struct, frozen=True):
    """What is open in one event loop."""

    sites: Sites
    backend: Backend
    """That of the default broker, as are the next two, and the spool."""
    sending: Backend
    """The same for callers who defer, with the spool and the outbox, if there are any."""
    batcher: Batcher
    doors: Mapping[str, Door]
    """By broker; none where there is only the default one."""
    spool: Spooling | None
    relay: Relay | None
    collector: Collector | None
    historian: Historian | None
    scope: Scoped
    loop: asyncio.AbstractEventLoop

    def door(self, queue: str) -> "Live | Door":
        """The way to the broker that a queue is on."""
        return self.doors[self.sites.home(queue)] if self.doors else self


class Lives:
    """What is open, by event loop."""

    def __init__(self) -> None:
        self.by_loop: dict[asyncio.AbstractEventLoop, Live] = {}

    def here(self) -> Live:
        """What is open in the running event loop; raises ConfigError when nothing is."""
        try:
            return self.by_loop[asyncio.get_running_loop()]
        except KeyError:
            raise ConfigError("the app is not open in this event loop: write `async with app:` around this") from None


@asynccontextmanager
async def opened(
    sites: Sites,
    settings: Settings,
    definitions: Iterable[Definition],
    sender: Sender,
    scope: Scoped,
    events: Events,
    spooled: Callable[[Job], bool],
) -> AsyncGenerator[Live]:
    """What stands between callers and the open brokers. Raises ConfigError for an outbox that a task cannot use.

    ``spooled``: whether a job waits in the spool, if there is one.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        if settings.payloads is not None:
            sites = await _with_payloads(sites, settings.payloads, settings, stack)
        backend = sites.default.backend
        spools = await _spools(sites, settings, stack, spooled, events.emit)
        brokers = {name: spools.get(name, site.own.broker) for name, site in sites.by_name.items()}
        transactions, relay = await _outbox(backend, settings, definitions, stack)
        doors: dict[str, Door] = {}
        for name, site in sites.by_name.items():
            sending = replace(site.backend, broker=brokers[name])
            if transactions is not None:
                sending = replace(sending, transactions=transactions)
            batcher = Batcher(brokers[name])
            # Not a task group: it would wrap whatever the body of `async with app` raises into a group.
            stack.push_async_callback(_end, loop.create_task(batcher.run()))
            doors[name] = Door(site.backend, sending, batcher)
        several, home = sites.several, sites.home
        collector = None if backend.store is None else Collector(backend.store, sender, lambda at: spools.get(home(at)))
        keep, store = settings.history, backend.store
        historian = Historian(store, events, keep) if keep and store is not None else None
        await stack.enter_async_context(scope)
        first = doors[DEFAULT]
        sending = first.sending
        if several:
            sending = replace(sending, broker=everywhere(sending.broker, brokers, home))
        yield Live(
            sites,
            backend,
            sending,
            first.batcher,
            doors if several else {},
            spools.get(DEFAULT),
            relay,
            collector,
            historian,
            scope,
            loop,
        )


async def _with_payloads(sites: Sites, url: str, settings: Settings, stack: AsyncExitStack) -> Sites:
    """The same brokers, each with a place for calls that are too large for it."""
    keeping = partial(with_payloads, url=url, limit=settings.payload_size, keep=settings.payload_keep)
    backends = {name: await stack.enter_async_context(keeping(site.own)) for name, site in sites.by_name.items()}
    return Sites(backends, settings.pools)


async def _spools(
    sites: Sites,
    settings: Settings,
    stack: AsyncExitStack,
    spooled: Callable[[Job], bool],
    emit: Callable[[Event], None],
) -> Mapping[str, Spooling]:
    """The brokers as callers who defer see them, if there is a spool."""
    spools: dict[str, Spooling] = {}
    if settings.spool is not None:
        for name, site in sites.by_name.items():
            path = settings.spool if name == DEFAULT else f"{settings.spool}.{name}"
            file = SpoolFile(path, Bounds(settings.spool_size, settings.spool_age))
            ways = Ways(spooled, partial(replay, site.backend), partial(_gather, site.backend), emit)
            spools[name] = await stack.enter_async_context(spooling(site.own.broker, file, ways))
    return spools


async def _gather(backend: Backend, key: str, items: Mapping[str, bytes]) -> tuple[int, Job | None]:
    assert backend.store is not None, "without one nothing is collected"  # noqa: S101
    return await gather(backend.store, key, items)


async def _outbox(
    backend: Backend, settings: Settings, definitions: Iterable[Definition], stack: AsyncExitStack
) -> tuple[Transactions | None, Relay | None]:
    if settings.outbox is None:
        return None, None
    for definition in definitions:
        if definition.transaction:
            raise ConfigError(
                f"task {definition.name}: transaction=True commits in the broker's database, and this app defers "
                "in those of its outbox: drop one of them"
            )
    return await stack.enter_async_context(open_outbox(settings.outbox, backend))


async def _end(flusher: "asyncio.Task[None]") -> None:
    flusher.cancel()
    await asyncio.wait({flusher})
