"""Who waits for what in this process, and how it hears of it: from this process, by NOTIFY, and by looking.

Hearing is a hint. What a server never tells is found by looking, each second at the latest.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from secrets import token_hex

import anyio
from msgspec import DecodeError, json

from taskq.broker import Hint
from taskq.errors import BrokerError
from taskq_postgres.ear import Ear
from taskq_postgres.faults import DRIVER_ERRORS
from taskq_postgres.lanes import Connection, Lanes
from taskq_postgres.queries import Queries
from taskq_postgres.wishes import Wishes

Ref = tuple[str, str]

LOOK = 1.0
"""Seconds after which what waits looks for itself."""

_QUIET = 0.005
_PROBE = 10.0
_PATIENCE = 5.0
_PAYLOAD = 7900
_HINTS = 1000
_LAST_WORDS = 1.0


class Watcher:
    """The ears of one backend."""

    def __init__(
        self, sql: Queries, channel: str, lanes: Lanes, listening: Callable[[], Awaitable[Connection]] | None
    ) -> None:
        self._sql = sql
        self._channel = channel
        self._lanes = lanes
        self._open = listening
        self.wishes = Wishes()
        """The fetches that wait."""
        self.ear = Ear(sql, channel, self.wishes.hand)
        self._awaited: dict[Ref, set[asyncio.Future[bytes | None]]] = {}
        self._subscriptions: dict[str, set[asyncio.Queue[Hint | None]]] = defaultdict(set)
        self._news: dict[str, None] = {}
        self._looking = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self._probe = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = False
        self.roused = 0
        """How often waits were to end: one that began before the last time has to."""

    def start(self) -> None:
        if self._open is not None:
            self._spawn(self._listen(self._open))
        self._spawn(self._look_for_outcomes())

    async def close(self) -> None:
        """Say what is left to say, for what a worker gave back on its way out is somebody's; then end what waits."""
        self.closed = True
        if self._flusher is not None:
            await asyncio.wait({self._flusher}, timeout=_LAST_WORDS)
        self.wishes.tell_all()
        for futures in self._awaited.values():
            for future in futures:
                _resolve(future, None)
        for queues in self._subscriptions.values():
            for queue in queues:
                _put(queue, None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Waiting

    @contextmanager
    def awaiting(self, ref: Ref) -> Generator[asyncio.Future[bytes | None]]:
        """The outcome of a job, when it comes."""
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(ref, set()).add(future)
        try:
            yield future
        finally:
            future.cancel()
            waiting = self._awaited.get(ref)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._awaited[ref]

    @contextmanager
    def listening(self, channels: Sequence[str]) -> Generator[asyncio.Queue[Hint | None]]:
        """The hints of these channels from now on; None at the end. Whoever does not read loses the rest."""
        hints: asyncio.Queue[Hint | None] = asyncio.Queue(_HINTS)
        for channel in channels:
            self._subscriptions[channel].add(hints)
        if self.closed:
            _put(hints, None)
        try:
            yield hints
        finally:
            for channel in channels:
                self._subscriptions[channel].discard(hints)
                if not self._subscriptions[channel]:
                    del self._subscriptions[channel]

    # Telling

    @property
    def silent(self) -> bool:
        """Whether nothing has been told for a moment, so that the next message may go at once."""
        return self._flusher is None and not self.closed

    def told(self) -> None:
        """A commit has told the others; what comes next is told after a moment of silence."""
        if self.silent:
            self._flusher = self._spawn(self._flush(_QUIET))

    def rouse(self) -> None:
        """End the fetches that wait."""
        self.roused += 1
        self.wishes.tell_all()

    def wake(self, queues: Iterable[str], *, others: bool = True) -> None:
        """A fetch of these queues may find something, in this process and in others."""
        for queue in queues:
            self.wishes.tell(queue)
            if others:
                self._tell(f"q{queue}")

    def ended(self, ref: Ref, outcome: bytes | None) -> None:
        """A job has ended with this outcome."""
        for future in self._awaited.pop(ref, ()):
            _resolve(future, outcome)
        if outcome is not None:
            self._tell("e")

    def hint(self, hint: Hint) -> None:
        """Send a hint to every process, this one too; one that is too long for the server is lost."""
        self._tell(f"h{json.encode((hint.channel, hint.data)).decode()}")

    def _tell(self, message: str) -> None:
        if len(message.encode()) <= _PAYLOAD and not self.closed:
            self._news[message] = None
            if self._flusher is None:
                self._flusher = self._spawn(self._flush())

    async def _flush(self, silence: float = 0.0) -> None:
        """One statement for all that there is to say, and then silence for a moment."""
        try:
            await asyncio.sleep(silence)
            while self._news:
                news, self._news = list(self._news), {}
                with suppress(BrokerError):
                    await self._lanes.run(partial(self._notify, news))
                # A waiter hears of the first job at once, and of a thousand that come together it hears once more.
                await asyncio.sleep(_QUIET)
        finally:
            self._flusher = None

    async def _notify(self, news: Sequence[str], connection: Connection) -> None:
        await connection.execute(self._sql.notify, self._channel, news)

    # Hearing

    async def _listen(self, opener: Callable[[], Awaitable[Connection]]) -> None:
        """Listen on a connection that proves itself again and again, and on another when it does not."""
        pause = 0.05
        while True:
            connection: Connection | None = None
            lost = asyncio.Event()
            try:
                connection = await opener()
                connection.add_termination_listener(partial(_set, lost))
                await connection.add_listener(self._channel, self._hear)
                # Whatever was said while nobody listened.
                self._look()
                while not lost.is_set() and await self._answers(connection):
                    pause = 0.05
                    if not self.ear.hears:
                        await self.ear.listen(connection)
                        # Those who wait already may be handed jobs from now on.
                        self.wishes.tell_all()
                    with anyio.move_on_after(_PROBE):
                        await lost.wait()
            except DRIVER_ERRORS:
                # The fetches look for themselves meanwhile, and say what is wrong.
                pass
            finally:
                self.ear.hears = False
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LOOK)

    async def _answers(self, connection: Connection) -> bool:
        """Whether the connection hears what it says itself: behind a pooler it would not."""
        self._heard.clear()
        self._probe = f"p{token_hex(8)}"
        await connection.execute(self._sql.notify, self._channel, [self._probe])
        with anyio.move_on_after(_PATIENCE):
            await self._heard.wait()
        return self._heard.is_set()

    def _hear(self, connection: object, process: int, channel: str, payload: object) -> None:  # noqa: ARG002  # the driver's
        message = str(payload)
        kind, rest = message[:1], message[1:]
        if kind == "q":
            self.wake([rest], others=False)
        elif kind == "e":
            self._looking.set()
        elif kind == "h":
            # Anybody may say anything on a channel.
            with suppress(DecodeError):
                channel, data = json.decode(rest, type=tuple[str, str])
                for queue in self._subscriptions.get(channel, ()):
                    _put(queue, Hint(channel, data))
        elif message == self._probe:
            self._heard.set()

    def _look(self) -> None:
        self.wishes.tell_all()
        self._looking.set()

    async def _look_for_outcomes(self) -> None:
        """One look for all that is awaited: when something ended somewhere, and each second."""
        while True:
            with anyio.move_on_after(LOOK):
                await self._looking.wait()
            self._looking.clear()
            if refs := list(self._awaited):
                with suppress(BrokerError):
                    for ref, outcome in await self._outcomes(refs):
                        for future in self._awaited.pop(ref, ()):
                            _resolve(future, outcome)

    async def _outcomes(self, refs: Sequence[Ref]) -> list[tuple[Ref, bytes]]:
        queues, ids = zip(*refs, strict=True)
        rows = await self._lanes.run(lambda connection: connection.fetch(self._sql.outcomes, queues, ids))
        return [((row["queue"], row["id"]), row["outcome"]) for row in rows]

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _set(event: asyncio.Event, connection: object) -> None:  # noqa: ARG001  # the driver's argument
    event.set()


def _resolve(future: "asyncio.Future[bytes | None]", outcome: bytes | None) -> None:
    if not future.done():
        future.set_result(outcome)


def _put(queue: "asyncio.Queue[Hint | None]", hint: Hint | None) -> None:
    if hint is None and queue.full():
        queue.get_nowait()
    with suppress(asyncio.QueueFull):
        queue.put_nowait(hint)
