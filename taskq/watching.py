"""What a browser sees of batches: their status to poll, and as a stream of events; an ASGI app for any framework.

::

    GET /{id}           the status as JSON; with ?failures=1 the ids of failed members, too
    GET /{id}/events    the same at each change, as server-sent events; the last one is named "end"
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import parse_qs

import anyio
import msgspec

from taskq.app import App
from taskq.asgi import Message, Receive, Send
from taskq.errors import BrokerUnavailable, ConfigError
from taskq.flow import BatchStatus

Allow = Callable[[Message, str], Awaitable[bool]]
"""Whether who asks, by the scope of the request, may see the batch of this id."""

KEEP_ALIVE = 15.0
"""Seconds of silence before a comment is sent: proxies close what is silent for longer."""
MOST_FAILURES = 1000
"""Failed members that are listed."""
_END = b"end"
"""Id of the last event: a browser that comes again has heard it, and is told to stay away."""


class BatchWatch:
    """``web.mount("/batches", BatchWatch(jobs))``: who may see a batch sees how far it is, and each change.

    ``allow`` is asked at each request; without it all who can reach it may. Clients share one look a second
    (``every``). A stream ends with its batch, and after ``lasts`` seconds at the latest: browsers come again by
    themselves, and a server that stops does not wait for longer.
    """

    def __init__(self, app: App, *, allow: Allow | None = None, every: float = 1.0, lasts: float = 300.0) -> None:
        if every <= 0 or lasts <= 0:
            raise ConfigError(f"every={every!r}, lasts={lasts!r}: give seconds above 0")
        self._app = app
        self._allow = allow
        self._every = every
        self._lasts = lasts
        self._looking = asyncio.Lock()
        self._looked: dict[str, tuple[float, BatchStatus | None]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """What a server or framework calls."""
        if scope["type"] != "http":
            raise RuntimeError(f"batches are watched by HTTP, not by {scope['type']}")
        id, *rest = scope["path"].removeprefix(scope.get("root_path", "")).strip("/").split("/")  # noqa: A001
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, {"error": "only GET"})
        elif rest not in ([], ["events"]):
            await _answer(send, 404, {"error": "ask for /ID or /ID/events"})
        elif self._allow is not None and not await self._allow(scope, id):
            await _answer(send, 403, {"error": "this batch is not yours to see"})
        else:
            await self._show(id, scope, receive, send, streams=bool(rest))

    async def _show(self, id: str, scope: Message, receive: Receive, send: Send, *, streams: bool) -> None:
        try:
            status = await self._look(id)
        except BrokerUnavailable:
            await _answer(send, 503, {"error": "the broker does not answer"})
            return
        headers = dict(scope["headers"])
        if status is None:
            await _answer(send, 404, {"error": "no such batch, or it ended longer ago than it is kept"})
        elif not streams:
            asked = parse_qs(scope.get("query_string", b"").decode())
            failures = await self._failures(id) if asked.get("failures") else {}
            await _answer(send, 200, msgspec.to_builtins(status) | failures)
        elif headers.get(b"last-event-id") == _END and status.over is not None:
            await _answer(send, 204, None)
        else:
            await self._stream(id, receive, send)

    async def _look(self, id: str) -> BatchStatus | None:
        """Its status of a moment ago: all who ask in the same moment share it."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            self._looked = {of: looked for of, looked in self._looked.items() if now - looked[0] < self._every / 2}
            if id not in self._looked:
                try:
                    status = await self._app.batch(id).status()
                except ConfigError:
                    status = None
                self._looked[id] = now, status
            return self._looked[id][1]

    async def _failures(self, id: str) -> dict[str, Sequence[str]]:
        return {"failures": [ref.id for ref in (await self._app.batch(id).failures())[:MOST_FAILURES]]}

    async def _stream(self, id: str, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            # nginx would gather what is to be seen at once.
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with anyio.create_task_group() as group:
            group.start_soon(_until_gone, receive, group.cancel_scope)
            try:
                await self._tell(id, send)
                await send({"type": "http.response.body", "body": b""})
            except OSError:
                # Some servers tell so that the client has gone.
                pass
            group.cancel_scope.cancel()

    async def _tell(self, id: str, send: Send) -> None:
        """Send its status at each change, until it has ended or the stream has lasted long enough."""
        clock = asyncio.get_running_loop().time
        told: BatchStatus | None = None
        until, silent_since = clock() + self._lasts, clock()
        while clock() < until:
            try:
                status = await self._look(id)
            except BrokerUnavailable:
                status = told
            if status is not None and status != told:
                over = status.over is not None
                await send({"type": "http.response.body", "body": _event(status, over=over), "more_body": True})
                told, silent_since = status, clock()
                if over:
                    return
            elif clock() - silent_since >= KEEP_ALIVE:
                await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
                silent_since = clock()
            # The store has no waiting.
            await anyio.sleep(self._every)


def _event(status: BatchStatus, *, over: bool) -> bytes:
    data = b"data: " + msgspec.json.encode(status) + b"\n\n"
    return b"event: end\nid: " + _END + b"\n" + data if over else b"event: status\n" + data


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Whoever listens has gone: nothing is to go on for them."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _answer(send: Send, status: int, body: object) -> None:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers if body is not None else []})
    await send({"type": "http.response.body", "body": b"" if body is None else msgspec.json.encode(body)})
