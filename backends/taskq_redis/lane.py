"""A server we talk to: one wire, made when it is first needed and again after it was lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from taskq_redis.wire import Argument, Reply, Wire

Opener = Callable[[], Awaitable[AbstractConnection]]
"""Makes an open connection to the right server, wherever that is now."""

Abandoned = Callable[[asyncio.Future[Reply]], None]
"""Is given the reply that nobody waits for any more."""

_STALE = (exceptions.ReadOnlyError, exceptions.BusyLoadingError, exceptions.MasterDownError)
"""Errors of a server that is not the one to talk to, or not yet."""


class Sent(NamedTuple):
    """A command that is on its way."""

    wire: Wire
    reply: asyncio.Future[Reply]


class Lane:
    """Calls to one server. A lost connection fails those under way; the next call makes a new one."""

    def __init__(self, opener: Opener, *, patience: float, hot_wait: float = 0.0) -> None:
        self._opener = opener
        self._patience = patience
        self._hot_wait = hot_wait
        self._wire: Wire | None = None
        self._opening: asyncio.Task[Wire] | None = None
        self._closed = False

    def begin(self, packed: bytes) -> Sent | None:
        """Send what :meth:`call` is to wait for; None while there is no connection, and nothing was sent."""
        return Sent(self._wire, *self._wire.send(packed)) if self._wire is not None else None

    async def call(self, *command: Argument, abandoned: Abandoned | None = None, sent: Sent | None = None) -> Reply:
        """One command, unless it was sent, and its reply. Raises what the driver raises.

        When the caller is cancelled although the command was sent, ``abandoned`` gets the reply to come.
        """
        if sent is None:
            wire = self._wire
            if wire is None:
                wire = await self._open()
            (reply,) = wire.send(command)
        else:
            wire, reply = sent
        try:
            return await reply
        except _STALE as error:
            wire.close(error)
            raise
        except asyncio.CancelledError:
            if abandoned is not None:
                abandoned(wire.rescued(reply))
            raise

    async def call_all(
        self, *commands: Sequence[Argument], abandoned: Abandoned | None = None
    ) -> list[Reply | Exception]:
        """Commands that nothing comes between, and a reply or an error for each; ``abandoned`` gets the last one."""
        wire = self._wire or await self._open()
        sent = wire.send(*commands)
        replies: list[Reply | Exception] = []
        try:
            found = await asyncio.gather(*sent, return_exceptions=True)
        except asyncio.CancelledError:
            if abandoned is not None:
                abandoned(wire.rescued(sent[-1]))
            raise
        for reply in found:
            if isinstance(reply, asyncio.CancelledError):
                raise reply
            if isinstance(reply, _STALE):
                wire.close(reply)
            if isinstance(reply, BaseException) and not isinstance(reply, Exception):
                raise reply
            replies.append(reply)
        return replies

    async def close(self) -> None:
        """End the connection and whatever waits for one."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._wire is not None:
            self._wire.close(exceptions.ConnectionError("this backend is closed"))

    async def _open(self) -> Wire:
        if self._closed:
            raise exceptions.ConnectionError("this backend is closed")
        if self._opening is None:
            # A task of its own, so that a caller who is cancelled takes nobody's connection away.
            self._opening = asyncio.get_running_loop().create_task(self._make())
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():
                raise exceptions.ConnectionError("this backend is closed") from None
            raise

    async def _make(self) -> Wire:
        return Wire(await self._opener(), patience=self._patience, hot_wait=self._hot_wait, lost=self._lose)

    def _opened(self, opening: "asyncio.Task[Wire]") -> None:
        self._opening = None
        # Read here, as every caller may have been cancelled.
        if not opening.cancelled() and opening.exception() is None and opening.result().is_open:
            self._wire = opening.result()

    def _lose(self, wire: Wire) -> None:
        if self._wire is wire:
            self._wire = None


async def opened(connection: AbstractConnection, patience: float) -> AbstractConnection:
    """The connection, open, or an error of the driver within ``patience`` seconds."""
    task = asyncio.current_task()
    try:
        async with asyncio.timeout(patience):
            await connection.connect()  # type: ignore[no-untyped-call]  # its types are partial
        # Its connect() now and then succeeds although it was cancelled.
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # noqa: TRY301 it ends as a cancellation in time does
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection
