"""What an app has open in an event loop."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec import Struct
from msgspec.structs import replace

from taskq.batcher import Batcher
from taskq.broker import Backend
from taskq.collect import Collector
from taskq.config import Settings
from taskq.definition import Definition
from taskq.depends import Scoped
from taskq.errors import ConfigError
from taskq.events import Events
from taskq.history import Historian
from taskq.job import Enqueued, Job
from taskq.outbox import Relay, open_outbox
from taskq.payloads import with_payloads
from taskq.spool import Bounds, spooling


class Live(Struct, frozen=True):
    """What is open in one event loop."""

    backend: Backend
    sending: Backend
    """The same for callers who defer, with the spool and the outbox, if there are any."""
    relay: Relay | None
    batcher: Batcher
    collector: Collector | None
    historian: Historian | None
    scope: Scoped
    loop: asyncio.AbstractEventLoop


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
    backend: Backend,
    settings: Settings,
    definitions: Iterable[Definition],
    enqueue: Callable[[Job], Awaitable[Enqueued]],
    scope: Scoped,
    events: Events,
) -> AsyncGenerator[Live]:
    """What stands between callers and the open ``backend``. Raises ConfigError for an outbox that a task cannot use."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        if settings.payloads is not None:
            keeping = with_payloads(backend, settings.payloads, limit=settings.payload_size, keep=settings.payload_keep)
            backend = await stack.enter_async_context(keeping)
        sending, relay = await _sending(backend, settings, definitions, stack)
        batcher = Batcher(sending.broker)
        collector = None if backend.store is None else Collector(backend.store, enqueue)
        keep, store = settings.history, backend.store
        historian = Historian(store, events, keep) if keep and store is not None else None
        # Not a task group: it would wrap whatever the body of `async with app` raises into a group.
        stack.push_async_callback(_end, loop.create_task(batcher.run()))
        await stack.enter_async_context(scope)
        yield Live(backend, sending, relay, batcher, collector, historian, scope, loop)


async def _sending(
    backend: Backend, settings: Settings, definitions: Iterable[Definition], stack: AsyncExitStack
) -> tuple[Backend, Relay | None]:
    """The backend as callers who defer see it."""
    relay, sending = None, backend
    if settings.spool is not None:
        bounds = Bounds(settings.spool_size, settings.spool_age)
        spool = await stack.enter_async_context(spooling(backend.broker, settings.spool, bounds))
        sending = replace(sending, broker=spool)
    if settings.outbox is not None:
        for definition in definitions:
            if definition.transaction:
                raise ConfigError(
                    f"task {definition.name}: transaction=True commits in the broker's database, and this app defers "
                    "in those of its outbox: drop one of them"
                )
        transactions, relay = await stack.enter_async_context(open_outbox(settings.outbox, backend))
        sending = replace(sending, transactions=transactions)
    return sending, relay


async def _end(flusher: "asyncio.Task[None]") -> None:
    flusher.cancel()
    await asyncio.wait({flusher})
