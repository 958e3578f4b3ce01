"""The shop on Litestar."""

from litestar import Litestar, MediaType, Response, get

from tests.embedding.shop import lifespan, places


@get("/", media_type=MediaType.TEXT)
async def home() -> str:
    return await places()


@get("/readyz", media_type=MediaType.TEXT)
async def readyz() -> Response[str]:
    trouble = await lifespan.trouble()
    return Response(trouble or "ok", status_code=503 if trouble else 200)


web = Litestar([home, readyz], lifespan=[lifespan])
