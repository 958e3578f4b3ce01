"""A web server that is told of tasks, and answers as it is told to."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from aiohttp import web
from msgspec import Struct

from taskq.webhook import verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - a test's
SOON = 60.0

HANG = 0
"""In place of a status: take the request, and never answer."""


class Request(Struct, frozen=True):
    path: str
    id: str
    content: Any


class Receiver:
    """Verifies every webhook; answers 200 when there are no ``answers`` left."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.requests: list[Request] = []
        self._came = anyio.Event()

    def told(self, kind: str, path: str = "/hook") -> Sequence[dict[str, Any]]:
        """What the webhooks of a kind said."""
        return [r.content["data"] for r in self.requests if r.path == path and r.content["type"] == f"task.{kind}"]

    def dead(self) -> int:
        """How many jobs the webhooks said are dead."""
        return sum(told["dead"] for told in self.told("dead"))

    async def until(self, enough: Callable[[], object]) -> None:
        """Return when enough requests have come."""
        with anyio.fail_after(SOON):
            while not enough():
                self._came = anyio.Event()
                await self._came.wait()

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = "webhook-id" in request.headers
        content = verify(SECRET, request.headers, body) if signed else msgspec.json.decode(body)
        self.requests.append(Request(request.path, request.headers.get("webhook-id", ""), content))
        self._came.set()
        status, headers = self.answers.pop(0) if self.answers else (200, {})
        if status == HANG:
            await anyio.sleep_forever()
        return web.Response(status=status, headers=headers)


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    """A server on a port of its own."""
    runner = web.AppRunner(server := web.Application(), access_log=None, shutdown_timeout=0.1)
    receiver = Receiver("")
    server.router.add_post("/{path:.*}", receiver.answer)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        receiver.url = f"http://{host}:{port}"
        yield receiver
    finally:
        await runner.cleanup()
