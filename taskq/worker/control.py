"""What operators ask of running workers: pause, cancel a job. The Store is the truth, hints make it quick."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import anyio
import msgspec

from taskq.broker import Backend, Hints
from taskq.errors import BrokerError, BrokerUnavailable
from taskq.job import Job
from taskq.store import Entry, Store
from taskq.tags import tags_of

PAUSED_KEY = "taskq:paused"
CANCEL, PAUSE = "taskq:cancel", "taskq:pause"
"""Channels of hints: the ids of jobs to be cancelled, and that the paused queues have changed."""

POLL, HINTED_POLL = 1.0, 5.0
"""Seconds between looks at what is paused: without hints, and with them, when only a lost one waits for the next look.

An idle worker on Redis then sends less than one command a second, all told.
"""

AGAIN = 5.0
"""Seconds after which a job of a paused task, tenant or tag comes for another look, as its queue goes on."""

Paused = dict[str, float | None]
"""What is paused to the moment it resumes by itself, None: when somebody says so. Queues stand there by their names,
which have no colon, the others as ``task:NAME``, ``tenant:NAME``, ``tag:NAME``."""


def pauses_of(queues: Iterable[str], **others: Iterable[str]) -> Sequence[str]:
    """What pausing these is called: ``pauses_of(["mail"], tag=["bulk"])``."""
    return [*queues, *(f"{kind}:{name}" for kind, names in others.items() for name in names)]


def pauses_on(job: Job) -> Sequence[str]:
    """What a job rests by, if that is paused."""
    return pauses_of([job.queue], task=[job.task], tenant=[] if job.tenant is None else [job.tenant], tag=tags_of(job))


def is_queue(name: str) -> bool:
    """Whether it is a queue that is called so."""
    return ":" not in name


def named(pauses: Iterable[str]) -> Sequence[str]:
    """What is paused, as people say it: ``queue mail``, ``tag bulk``."""
    return [f"queue {name}" if is_queue(name) else name.replace(":", " ", 1) for name in pauses]


async def what_is_paused(store: Store) -> Paused:
    """By the backend's clock."""
    return _read(await store.get(PAUSED_KEY))


async def paused_queues(store: Store) -> Paused:
    """The queues that are paused now, by the backend's clock."""
    return {name: until for name, until in (await what_is_paused(store)).items() if is_queue(name)}


async def pause(store: Store, hints: Hints | None, names: Sequence[str], seconds: float | None) -> None:
    """Stop all workers running what these hold, for so many seconds or until resumed; they know within a second."""
    await _change(
        store, hints, lambda paused, now: paused | dict.fromkeys(names, None if seconds is None else now + seconds)
    )


async def resume(store: Store, hints: Hints | None, names: Sequence[str]) -> None:
    """Let the workers go on with these."""
    await _change(store, hints, lambda paused, _now: {name: end for name, end in paused.items() if name not in names})


async def _change(store: Store, hints: Hints | None, change: Callable[[Paused, float], Paused]) -> None:
    swapped = False
    while not swapped:
        entry = await store.get(PAUSED_KEY)
        paused = change(_read(entry), entry.now)
        swapped = await store.swap(PAUSED_KEY, entry.value, msgspec.json.encode(paused) if paused else None)
    if hints is not None:
        await hints.publish(PAUSE, "")


def _read(entry: Entry) -> Paused:
    paused = msgspec.json.decode(entry.value, type=Paused) if entry.value is not None else {}
    return {name: until for name, until in paused.items() if until is None or until > entry.now}


class Control:
    """Keeps one worker told. Without a Store nothing is paused; without hints a cancel waits for the next extend."""

    def __init__(
        self,
        backend: Backend,
        *,
        cancel: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        holds: Callable[[str], bool],
        poll: float,
    ) -> None:
        self._backend = backend
        self._cancel = cancel
        """Called when a job that this worker holds is to be cancelled: extends at once, and obeys."""
        self._changed = changed
        self._holds = holds
        self._poll = poll
        self._look_now = anyio.Event()
        self.paused: Paused = {}

    async def look(self) -> None:
        """Find out what is paused: before the first fetch, or a worker started during a pause would break it."""
        if self._backend.store is not None:
            await self._refresh(self._backend.store)

    async def run(self) -> None:
        """Listen and look until cancelled."""
        async with anyio.create_task_group() as group:
            if self._backend.hints is not None:
                group.start_soon(self._listen, self._backend.hints)
            if self._backend.store is not None:
                group.start_soon(self._look, self._backend.store)

    async def _listen(self, hints: Hints) -> None:
        while True:
            try:
                async with hints.subscribe([CANCEL, PAUSE]) as heard:
                    # What was said before anybody listened.
                    await self._cancel()
                    self._look_now.set()
                    async for hint in heard:
                        if hint.channel == CANCEL and self._holds(hint.data):
                            await self._cancel()
                        elif hint.channel == PAUSE:
                            self._look_now.set()
            except BrokerUnavailable:
                await anyio.sleep(POLL)

    async def _look(self, store: Store) -> None:
        while True:
            self._look_now = anyio.Event()
            await self._refresh(store)
            # A pause may end by itself.
            with anyio.move_on_after(POLL if self.paused else self._poll):
                await self._look_now.wait()

    async def _refresh(self, store: Store) -> None:
        try:
            paused = await what_is_paused(store)
        except BrokerError:
            return  # The fetcher meets the same trouble, and tells.
        if paused != self.paused:
            self.paused = paused
            self._changed()
