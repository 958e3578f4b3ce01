"""The shop on Starlette, with a page that stops the event loop until a job has run."""

import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.embedding.shop import lifespan, places, touch


async def home(_: Request) -> PlainTextResponse:
    return PlainTextResponse(await places())


async def readyz(_: Request) -> PlainTextResponse:
    trouble = await lifespan.trouble()
    return PlainTextResponse(trouble or "ok", 503 if trouble else 200)


async def block(request: Request) -> PlainTextResponse:
    file = request.query_params["until"]
    await touch.defer(file)
    while not Path(file).exists():  # noqa: ASYNC240 - on purpose
        time.sleep(0.01)  # noqa: ASYNC251 - on purpose
    return PlainTextResponse("a worker has run it")


web = Starlette(routes=[Route("/", home), Route("/readyz", readyz), Route("/block", block)], lifespan=lifespan)
