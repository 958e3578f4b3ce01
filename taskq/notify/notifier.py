"""An app's notifications: what its workers noticed is gathered by one job a task and window, which enqueues messages.

Each message to each target is a job of its own, so that one that is out of reach keeps nothing from the others.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Protocol

from taskq.collect import Collect
from taskq.config import Settings
from taskq.context import current
from taskq.errors import ConfigError, Discard, Snooze
from taskq.events import Events
from taskq.notify.marks import read_marks, write_mark
from taskq.notify.notices import Notice, gathered, kind_for, remaining, told
from taskq.notify.post import NotDelivered, post
from taskq.notify.watch import Watch
from taskq.report import Redact
from taskq.retry import full_jitter
from taskq.store import Store
from taskq.tasks import Tasks, make_task
from taskq.webhook import Message

GATHER, SEND = "taskq.notify", "taskq.notify.send"
TRIES = 24
"""How often a message is sent: over three hours on average."""
WAITS = full_jitter(1.0, 1800.0)
KEPT = 7 * 86_400.0
"""Seconds that a message which could not be sent is kept."""
LEFT = 2.0
"""Seconds that the end of an app may wait for what was noticed last."""

_log = logging.getLogger("taskq.notify")


class Host(Protocol):
    """What notifications need of their app."""

    settings: Settings
    events: Events
    registry: Tasks

    @property
    def store(self) -> Store: ...


class Notifier:
    """Two tasks, and who listens; nothing where the settings name nobody to tell. Raises ConfigError."""

    def __init__(self, host: Host, redact: Redact | None) -> None:
        settings = host.settings
        self._host = host
        self._redact = redact
        self._targets = {target.name: target for target in settings.notify}
        if not self._targets:
            return
        if len(self._targets) < len(settings.notify):
            raise ConfigError("notify: two of them have one name: give them names")
        if find_spec("aiohttp") is None:
            raise ConfigError("notify: to send messages needs: pip install 'taskq-async[notify]'")
        own = {"queue": settings.notify_queue, "idempotent": True}
        collect = Collect(size=100_000, wait=settings.notify_window, key=("task",))
        self._gather = host.registry.add(make_task(self._tell, {**own, "name": GATHER, "collect": collect}))
        self._send = host.registry.add(
            make_task(self._deliver, {**own, "name": SEND, "retry": 1, "max_losses": 10, "keep_dead": KEPT})
        )

    @asynccontextmanager
    async def watching(self) -> AsyncGenerator[None]:
        """Notice what workers of this event loop do."""
        if not self._targets:
            yield
            return
        watch = Watch(
            self._gather.defer,
            lambda: read_marks(self._host.store),
            wanted=frozenset(kind for target in self._targets.values() for kind in target.on),
            silent=(GATHER, SEND),
            window=self._host.settings.notify_window,
            redact=self._redact,
        )
        end = watch.listen(self._host.events)
        running = asyncio.get_running_loop().create_task(watch.run(), context=Context())
        try:
            yield
        finally:
            end()
            watch.close()
            await asyncio.wait({running}, timeout=LEFT)
            running.cancel()
            await asyncio.wait({running})

    async def _tell(self, notices: list[Notice]) -> None:
        whole = gathered(notices)
        mark = (await read_marks(self._host.store)).get(whole.task)
        for target in self._targets.values():
            kind = kind_for(target.on, whole, mark)
            if kind is not None:
                message = Message(f"task.{kind}", datetime.now(UTC).isoformat(timespec="seconds"), told(whole))
                await self._send.options(id=f"{current().id}-{target.name}").defer(target.name, message)
        await write_mark(self._host.store, whole.task, remaining(whole, mark))

    async def _deliver(self, to: str, message: Message) -> None:
        target = self._targets.get(to)
        if target is None:
            raise Discard(f"the settings have no {to!r} any more")
        job = current()
        tries = 1 + (await job.restore(int) or 0)
        try:
            await post(target.request(job.id, time.time(), message), target.timeout)
        except NotDelivered as failure:
            if failure.final or tries >= TRIES:
                raise
            # Snoozed, not failed: one outage is reported once, however often it is tried.
            if tries == 1:
                _log.warning("%s: %s; it is tried again", to, failure)
            await job.checkpoint(tries)
            after = WAITS(tries, random.random()) if failure.after is None else failure.after  # noqa: S311
            raise Snooze(after, f"{to}: {failure}") from None
        if tries > 1:
            _log.info("%s: delivered at try %d", to, tries)
