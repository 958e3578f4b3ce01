"""A door before a server: the network between, with everything that networks do."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from math import inf

import hiredis


class Proxy:
    """Forwards bytes both ways."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.cutting = False
        """The next bytes of the server are thrown away, and the connection with them."""
        self.deaf: frozenset[bool] = frozenset()
        """What is not forwarded while nothing is closed, replies (true) or requests: a cable that was pulled."""
        self.latency = 0.0
        """Seconds that bytes take either way."""
        self.rate = inf
        """Bytes a second."""
        self.accepted = 0
        """Connections so far."""
        self.allows: Callable[[list[bytes]], bool] | None = None
        """Asked of each command of Redis; one that is refused ends its connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, server = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        self.accepted += 1
        self._writers += [writer, server]
        for source, sink, replies in ((reader, server, False), (there, writer, True)):
            task = asyncio.create_task(self._forward(source, sink, [writer, server], replies=replies))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        both: list[asyncio.StreamWriter],
        *,
        replies: bool,
    ) -> None:
        commands = hiredis.Reader()
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if replies in self.deaf:
                    continue
                if not replies and self.allows is not None and not _all(commands, data, self.allows):
                    break
                if replies and self.cutting:
                    self.cutting = False
                    break
                if wait := self.latency + len(data) / self.rate:
                    await asyncio.sleep(wait)
                sink.write(data)
        for writer in both:
            writer.transport.abort()

    def switch(self, port: int) -> None:
        """Every connection ends, and the next ones lead there."""
        self.lead(port)
        self.reset()

    def lead(self, port: int) -> None:
        """The next connections lead there; those that are there stay where they are."""
        self._port = port

    def reset(self) -> None:
        """Every connection ends, whatever was on its way."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)


def _all(commands: hiredis.Reader, data: bytes, allows: Callable[[list[bytes]], bool]) -> bool:
    """Whether every command that is complete with these bytes is allowed."""
    commands.feed(data)
    with suppress(hiredis.ProtocolError):  # a replica says more than commands
        while (command := commands.gets()) is not False:
            if not allows(command):
                return False
    return True


@asynccontextmanager
async def proxied(port: int, tls: ssl.SSLContext | None = None) -> AsyncGenerator[tuple[Proxy, int]]:
    """A proxy and the port at which it listens, which may speak TLS for a server that does not."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield proxy, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await proxy.close()
