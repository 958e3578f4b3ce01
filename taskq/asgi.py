"""An app, and a worker if wanted, for as long as an ASGI server serves: FastAPI, Starlette, Litestar, Django, any."""

import asyncio
import logging
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from taskq.app import App
from taskq.errors import BrokerError, ConfigError
from taskq.threaded import working_in_thread
from taskq.worker.sight import trouble_ready
from taskq.worker.worker import Worker

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]

PATIENCE = 2.0
"""Seconds the broker has for an answer before the process is not ready."""

_log = logging.getLogger("taskq")


class TaskqLifespan:
    """``FastAPI(lifespan=TaskqLifespan(jobs))``: requests may defer, and a worker works, while the web app serves.

    ``worker=False`` leaves the work to others; ``thread=True`` gives the worker a thread and an event loop of its own,
    so that neither blocks the other. The further options are those of ``app.run_worker``: ``slots``, ``queues``,
    ``grace``. The worker is drained before the server ends.
    """

    def __init__(self, app: App, *, worker: bool = True, thread: bool = False, **options: Any) -> None:
        if not worker and (thread or options):
            raise ConfigError(f"without a worker there is nothing to set: {', '.join(options) or 'thread'}")
        self._app = app
        self._worker = worker
        self._thread = thread
        self._options = options
        self._working: Worker | None = None
        self._serving = False

    @asynccontextmanager
    async def __call__(self, _web: object = None) -> AsyncGenerator[None]:
        """What a framework's ``lifespan`` argument takes; raises what opening the app raises."""
        async with self.open(), self.work():
            yield

    def open(self) -> AbstractAsyncContextManager[object]:
        """The first half: the app is open, and nobody works yet."""
        return self._app

    @asynccontextmanager
    async def work(self) -> AsyncGenerator[None]:
        """The second half: a worker works, unless others do."""
        async with self._workplace() as self._working:
            self._serving = True
            try:
                yield
            finally:
                self._serving = False

    async def trouble(self) -> str | None:
        """Why this process should not be given requests now, or None: for its readiness probe.

        Asks the broker for an answer within two seconds, where it has a store to ask, and looks at the worker.
        """
        if not self._serving:
            return "it does not serve yet, or no more"
        if self._working is not None:
            trouble = trouble_ready(self._working.look(), self._working.options.lease)
            if trouble is not None:
                return trouble
        store = self._app.backend.store
        try:
            with anyio.fail_after(PATIENCE):
                if store is not None:
                    await store.get("taskq:ready")
        except (BrokerError, TimeoutError):
            return "the broker does not answer"
        return None

    def _workplace(self) -> AbstractAsyncContextManager[Worker | None]:
        if not self._worker:
            return nullcontext()
        if self._thread:
            return _in_thread(self._app, self._options)
        return self._app.working(**self._options)


@asynccontextmanager
async def _in_thread(app: App, options: dict[str, Any]) -> AsyncGenerator[Worker]:
    # To begin and to end takes its time, and the web app's loop goes on meanwhile.
    stack = ExitStack()
    worker = await anyio.to_thread.run_sync(stack.enter_context, working_in_thread(app, **options))
    try:
        yield worker
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(stack.__exit__, *sys.exc_info()))


class TaskqMiddleware:
    """``TaskqMiddleware(web, TaskqLifespan(jobs), readyz="/readyz")``: the same for any ASGI app.

    The app is open before the web app's own startup, if it has one, the worker works after it, and is drained before
    its shutdown. ``readyz`` is a path that answers 200, or 503 and the trouble. The server has to send lifespan events.
    """

    def __init__(self, app: ASGIApp, lifespan: TaskqLifespan, *, readyz: str | None = None) -> None:
        self._app = app
        self._lifespan = lifespan
        self._readyz = readyz

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """What a server calls."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == self._readyz:
            await self._tell(send)
        else:
            await self._app(scope, receive, send)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        """A server's lifespan, from its first event to its last."""
        await receive()
        stage = "startup"
        try:
            async with self._lifespan.open(), _lifespan_of(self._app, scope), self._lifespan.work():
                await send({"type": "lifespan.startup.complete"})
                stage = "shutdown"
                await receive()
        except Exception:  # noqa: BLE001 - the server is told, and ends
            await send({"type": f"lifespan.{stage}.failed", "message": traceback.format_exc()})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _tell(self, send: Send) -> None:
        trouble = await self._lifespan.trouble()
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 503 if trouble else 200, "headers": headers})
        await send({"type": "http.response.body", "body": f"{trouble or 'ok'}\n".encode()})


@asynccontextmanager
async def _lifespan_of(app: ASGIApp, scope: Message) -> AsyncGenerator[None]:
    """A web app's own lifespan; one that raises at its first event has none."""
    events: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    # Not a task group: it would wrap what the other contexts raise into a group.
    living = asyncio.ensure_future(app(scope, events.get, answers.put))

    async def tell(event: str) -> Message | None:
        events.put_nowait({"type": f"lifespan.{event}"})
        answering = asyncio.ensure_future(answers.get())
        await asyncio.wait({living, answering}, return_when=asyncio.FIRST_COMPLETED)
        answer = answering.result() if answering.done() else None
        answering.cancel()
        if answer is not None and answer["type"].endswith(".failed"):
            raise RuntimeError(f"the web app's {event} failed: {answer.get('message', '')}")
        return answer

    try:
        if await tell("startup") is None:
            _log.debug("the web app has no lifespan of its own", exc_info=living.exception())
            yield
        else:
            yield
            await tell("shutdown")
    finally:
        living.cancel()
        await asyncio.wait({living})
