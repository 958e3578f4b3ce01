"""A door before a server that can swallow a reply."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards bytes both ways."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.cutting = False
        """The next bytes of the server are thrown away, and the connection with them."""
        self.deaf = False
        """Nothing is forwarded, and nothing is closed: a cable that was pulled."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, server = await asyncio.open_connection("127.0.0.1", self._port)
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
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if self.deaf:
                    continue
                if replies and self.cutting:
                    self.cutting = False
                    break
                sink.write(data)
        for writer in both:
            writer.transport.abort()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)


@asynccontextmanager
async def proxied(port: int) -> AsyncGenerator[tuple[Proxy, int]]:
    """A proxy and the port at which it listens."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await proxy.close()
