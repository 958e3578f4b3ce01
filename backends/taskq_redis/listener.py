"""The connection that hears: what waits is told, and hints reach their listeners. Made when somebody first waits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from secrets import token_hex

from redis.asyncio.connection import AbstractConnection

from taskq.broker import Hint
from taskq.errors import BrokerUnavailable
from taskq_redis.faults import DRIVER_ERRORS, translated
from taskq_redis.keys import Keys
from taskq_redis.wire import Reply, Wire

_HELD = 1000
"""Hints a slow listener may be behind; what it cannot hold it does not get."""

_FIRST, _CAP = 0.05, 1.0
"""Seconds between tries to connect: a worker hears again at most a second after the server is back."""


class Bell:
    """Somebody who can be told. The scripts know a bell by its ``member``."""

    __slots__ = ("_future", "jobs", "member", "number", "passed", "rung", "told")

    def __init__(self, number: int, channel: bytes, lease: int) -> None:
        self.number = number
        self.member = b"%s %d %d" % (channel, number, lease)
        self.rung = False
        self.jobs: list[bytes] = []
        """Handed over, each with its message, and not taken yet."""
        self.passed: Callable[[], None] | None = None
        """Called instead while nobody waits here."""
        self.told: Callable[[], None] | None = None
        """Called first when the server says that there is something."""
        self._future: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake who waits, or the next who will."""
        self.rung = True
        if self.passed is not None:
            self.passed()
        elif self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Return when it rings, or when the time is over."""
        if self.rung:
            return
        loop = asyncio.get_running_loop()
        future = self._future = loop.create_future()
        timer = loop.call_later(seconds, _resolve, future)
        try:
            await future
        finally:
            timer.cancel()
            self._future = None


class Subscription:
    """One listener of some channels."""

    def __init__(self, channels: Sequence[str]) -> None:
        self.channels = frozenset(channels)
        self.hints: asyncio.Queue[Hint | None] = asyncio.Queue(_HELD)
        self.heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the server has confirmed all channels."""
        self.unconfirmed = set(channels)
        if not channels:
            self.heard.set_result(None)

    def put(self, hint: Hint | None) -> None:
        if not self.hints.full():
            self.hints.put_nowait(hint)

    async def __aiter__(self) -> AsyncIterator[Hint]:
        while (hint := await self.hints.get()) is not None:
            yield hint


class Listener:
    """One connection for all that this process waits for. Nothing depends on it: without it, waiting is polling."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[AbstractConnection]],
        keys: Keys,
        name: str,
        *,
        clustered: bool,
        patience: float,
    ) -> None:
        self._connect = connect
        self._name = name
        self._keys = keys
        self._patience = patience
        self._channel = keys.own_channel(token_hex(8), clustered=clustered)
        self._bells: dict[int, Bell] = {}
        self._numbers = 0
        self._subscriptions: dict[Subscription, None] = {}
        self._names: dict[bytes, str] = {}
        self._wire: Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self._silent = True
        self._marks = 0
        self._behind: dict[bytes, asyncio.Future[None]] = {}
        """Who waits for what was said before, by the mark that comes after it."""
        self.hears = False
        """Messages arrive."""
        self.problem: Exception | None = None
        """What ended the last connection."""
        self.closed = False

    def bell(self, lease: int = 0) -> Bell:
        """A new bell; it rings once by itself whenever the connection was made anew.

        With a ``lease``, in microseconds, a job may come with the message, leased for so long; not on a cluster, whose
        nodes do not know who hears.
        """
        self._start()
        self._numbers += 1
        bell = self._bells[self._numbers] = Bell(self._numbers, self._channel, lease)
        return bell

    def remove(self, bell: Bell) -> None:
        """It rings no more."""
        self._bells.pop(bell.number, None)

    async def caught_up(self) -> None:
        """Return when everything the server has said until now is heard, or will not be any more."""
        if self._wire is not None and self.hears:
            self._marks += 1
            heard = self._behind[b"%d" % self._marks] = asyncio.get_running_loop().create_future()
            self._wire.tell(b"PING", b"%d" % self._marks)
            await heard

    def subscribe(self, channels: Sequence[str]) -> Subscription:
        """Hear hints until :meth:`unsubscribe`."""
        names = {self._keys.channel(channel): channel for channel in channels}
        subscription = Subscription(channels)
        self._start()
        self._names.update(names)
        self._subscriptions[subscription] = None
        if self.hears and self._wire is not None:
            self._wire.tell(b"SUBSCRIBE", *names)
        return subscription

    async def confirmed(self, subscription: Subscription) -> None:
        """Return when its channels are listened to. Raises BrokerUnavailable or BrokerRejected when they cannot be."""
        try:
            async with asyncio.timeout(self._patience):
                await asyncio.shield(subscription.heard)
        except TimeoutError as error:
            raise translated(self.problem or error, self._name) from (self.problem or error)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Hear them no more."""
        self._subscriptions.pop(subscription, None)
        wanted = {channel for other in self._subscriptions for channel in other.channels}
        gone = [name for name, channel in self._names.items() if channel not in wanted]
        for name in gone:
            del self._names[name]
        if gone and self.hears and self._wire is not None:
            self._wire.tell(b"UNSUBSCRIBE", *gone)

    async def close(self) -> None:
        """End the connection and everything that waits."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._ring_all()
        for subscription in self._subscriptions:
            if subscription.hints.full():
                subscription.hints.get_nowait()
            subscription.put(None)
            if not subscription.heard.done():
                subscription.heard.set_exception(BrokerUnavailable("this backend is closed"))

    def _start(self) -> None:
        if self.closed:
            raise BrokerUnavailable("this backend is closed")
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        pause = _FIRST
        while True:
            try:
                if await self._hear(await self._connect()):
                    pause = _FIRST
            except DRIVER_ERRORS as error:
                self.problem = error
            # A server that refuses us is not to be asked in a tight loop.
            await asyncio.sleep(pause)
            pause = min(_CAP, 2 * pause)

    async def _hear(self, connection: AbstractConnection) -> bool:
        """Until the connection is lost, or silent although it was spoken to; whether anything was heard."""
        lost = asyncio.Event()
        wire = self._wire = Wire(connection, patience=self._patience, heard=self._heard, lost=lambda _: lost.set())
        heard = False
        try:
            self._silent = True
            wire.tell(b"SUBSCRIBE", self._channel)
            while not lost.is_set():
                try:
                    async with asyncio.timeout(self._patience):
                        await lost.wait()
                except TimeoutError:
                    if self._silent:
                        break
                    self._silent = True
                    wire.tell(b"PING")
                heard = heard or self.hears
        finally:
            self._wire, self.hears = None, False
            for mark in list(self._behind):
                self._catch_up(mark)
            wire.close()
            self.problem = wire.closed_by
        return heard

    def _heard(self, reply: list[Reply]) -> bool:
        self._silent = False
        # The commonest, and what waits for it sleeps: a match takes three times as long.
        if reply[0] == b"message" and reply[1] == self._channel and isinstance(data := reply[2], bytes):
            self._told(data)
            return True
        match reply:
            case [b"message", bytes(channel), bytes(data)]:
                self._message(channel, data)
            case [b"subscribe", bytes(channel), *_]:
                self._confirmed(channel)
            case [b"pong", bytes(mark)]:
                self._catch_up(mark)
            case _:
                pass
        return True

    def _told(self, data: bytes) -> None:
        number, _, job = data.partition(b" ")
        bell = self._bells.get(int(number))
        if bell is not None:
            if job:
                bell.jobs.append(job)
            elif bell.told is not None and not bell.rung:
                bell.told()
            bell.ring()

    def _message(self, channel: bytes, data: bytes) -> None:
        name = self._names.get(channel)
        if name is None:
            return
        hint = Hint(name, data.decode("utf-8", "replace"))
        for subscription in self._subscriptions:
            if name in subscription.channels:
                subscription.put(hint)

    def _catch_up(self, mark: bytes) -> None:
        heard = self._behind.pop(mark, None)
        if heard is not None:
            _resolve(heard)

    def _confirmed(self, channel: bytes) -> None:
        if channel == self._channel:
            self.hears = True
            # Whatever was said meanwhile has been missed.
            self._ring_all()
            if self._wire is not None and self._names:
                self._wire.tell(b"SUBSCRIBE", *self._names)
            return
        name = self._names.get(channel)
        for subscription in self._subscriptions:
            subscription.unconfirmed.discard(name or "")
            if not subscription.unconfirmed and not subscription.heard.done():
                subscription.heard.set_result(None)

    def _ring_all(self) -> None:
        for bell in list(self._bells.values()):
            bell.ring()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
