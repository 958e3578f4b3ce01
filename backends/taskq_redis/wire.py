"""One connection at its bare cost: what gathers in a turn of the loop is one write, replies come in order.

redis-py makes the connection (addresses, TLS, users, databases) and knows the errors; its own way of sending a command
costs 100 µs of CPU, this one 10 to 30 µs alone and 3 µs among others.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast
from weakref import WeakKeyDictionary

import hiredis
from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from taskq_redis.hotwait import HotWait

Argument = bytes | str | int
Reply = bytes | int | None | list["Reply"]

_MISSING = object()
Called = Callable[[Exception], None]


class Wire(asyncio.Protocol):
    """A connection in our hands. Its end fails everything that was sent and not answered."""

    def __init__(
        self,
        connection: AbstractConnection,
        *,
        patience: float,
        hot_wait: float = 0.0,
        heard: Callable[[list[Reply]], bool] | None = None,
        lost: Callable[["Wire"], None],
    ) -> None:
        """Takes over a connection that is open and has nothing under way.

        ``patience`` is how long the first of the unanswered commands may take before the connection counts as dead,
        ``hot_wait`` for how long the loop stays awake for the answer to one that is alone.
        ``heard`` is given each reply first and says whether it was a message that nobody asked for.
        """
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._heard = heard
        self._lost = lost
        self._hot = HotWait(hot_wait)
        # It has no public face.
        parser = connection._parser  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        error_of = cast("Callable[[str], Exception]", parser.parse_error)  # pyright: ignore[reportUnknownMemberType]
        self._replies = hiredis.Reader(
            protocolError=exceptions.InvalidResponse, replyError=error_of, notEnoughData=_MISSING
        )
        self._waiting: deque[asyncio.Future[Reply]] = deque()
        self._unread: WeakKeyDictionary[asyncio.Future[Reply], Reply | Exception] = WeakKeyDictionary()
        self._out: list[bytes] = []
        self._answered = self._checked = 0
        self._watch: asyncio.TimerHandle | None = None
        self.closed_by: Exception | None = None
        """What ended the connection."""
        writer = connection._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if writer is None:
            raise exceptions.ConnectionError("the connection was closed at once")
        # Each of them would close the socket when it is collected: the connection forgets it, the writer is kept.
        connection._reader = connection._writer = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._writer = writer
        self._transport = writer.transport
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            self._end(exceptions.ConnectionError("the connection was closed at once"))

    @property
    def is_open(self) -> bool:
        return self.closed_by is None

    def send(self, *commands: Sequence[Argument] | bytes) -> list[asyncio.Future[Reply]]:
        """Commands that nothing comes between, packed or not, and the replies to come.

        Cancelling one changes nothing on the wire.
        """
        futures: list[asyncio.Future[Reply]] = []
        for command in commands:
            future: asyncio.Future[Reply] = self._loop.create_future()
            futures.append(future)
            if self.closed_by is not None:
                future.set_exception(self.closed_by)
                continue
            packed_command = command if isinstance(command, bytes) else packed(command)
            self._waiting.append(future)
            if not self._out and len(self._waiting) > 1:
                self._loop.call_soon(self._flush)
            self._out.append(packed_command)
        # Alone, a command need not wait for the end of the turn.
        if len(self._waiting) == len(commands):
            self._flush()
            self._hot.begin()
        if self._watch is None and self._waiting:
            self._checked = self._answered
            self._watch = self._loop.call_later(self._patience, self._check)
        return futures

    def rescued(self, future: asyncio.Future[Reply]) -> asyncio.Future[Reply]:
        """The reply that a cancelled caller waited for, for whoever has to know what came of it."""
        rescued: asyncio.Future[Reply] = self._loop.create_future()
        if future in self._waiting:
            self._waiting[self._waiting.index(future)] = rescued
        elif future in self._unread:
            _answer(rescued, self._unread.pop(future))
        else:
            return future
        return rescued

    def tell(self, *command: Argument) -> None:
        """A command whose answer is a message to ``heard``."""
        if self.closed_by is None:
            self._transport.write(packed(command))

    def close(self, error: Exception | None = None) -> None:
        """End the connection; what is unanswered fails with ``error``."""
        self._end(error or exceptions.ConnectionError("the connection was closed"))
        self._transport.abort() if error is not None else self._transport.close()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets(False)) is not _MISSING:
                self._resolve(reply)
        except exceptions.InvalidResponse as error:
            self.close(error)

    def eof_received(self) -> None:
        self.close(exceptions.ConnectionError("the server closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or exceptions.ConnectionError("the server closed the connection"))
        self._before.connection_lost(exc)

    def _resolve(self, reply: Reply | Exception) -> None:
        if self._heard is not None and isinstance(reply, list) and self._heard(reply):
            return
        if not self._waiting:
            self.close(reply if isinstance(reply, Exception) else exceptions.InvalidResponse("a reply to nothing"))
            return
        self._answered += 1
        future = self._waiting.popleft()
        if not self._waiting:
            self._hot.end()
        if future.done():
            # Its caller was cancelled in this very turn and may still have to know.
            self._unread[future] = reply
            return
        _answer(future, reply)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self.closed_by is None:
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])

    def _check(self) -> None:
        """A half-open connection is silent for ever: nothing but this finds out."""
        self._watch = None
        if self.closed_by is not None or not self._waiting:
            return
        if self._answered == self._checked:
            self.close(exceptions.TimeoutError(f"no reply for {self._patience:g} s"))
            return
        self._checked = self._answered
        self._watch = self._loop.call_later(self._patience, self._check)

    def _end(self, error: Exception) -> None:
        if self.closed_by is not None:
            return
        self.closed_by = error
        if self._watch is not None:
            self._watch.cancel()
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_exception(error)
        self._lost(self)


def _answer(future: "asyncio.Future[Reply]", reply: Reply | Exception) -> None:
    if isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)


def packed(command: Sequence[Argument]) -> bytes:
    """A command as it goes over the wire."""
    pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType, reportUnknownMemberType] its stub takes one argument
    return pack(tuple(command))
