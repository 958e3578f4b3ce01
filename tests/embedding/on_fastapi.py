"""The shop on FastAPI."""

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from tests.embedding.shop import lifespan, places

web = FastAPI(lifespan=lifespan, default_response_class=PlainTextResponse)


@web.get("/")
async def home() -> str:
    return await places()


@web.get("/readyz")
async def readyz(response: Response) -> str:
    trouble = await lifespan.trouble()
    response.status_code = 503 if trouble else 200
    return trouble or "ok"
