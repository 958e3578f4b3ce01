"""What a provider provides fits the parameter it is for.

A line with ``# E`` must be an error to every type checker, and no other line may be one.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from taskq import App, Depends


class Pool:
    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, *error: object) -> None: ...


def plain() -> Pool:
    return Pool()


async def coroutine() -> Pool:
    return Pool()


async def generator() -> AsyncIterator[Pool]:
    yield Pool()


@asynccontextmanager
async def context(*, outer: Pool = Depends(plain)) -> AsyncGenerator[Pool]:
    yield outer


async def word() -> str:
    return "word"


app = App("memory://")


@app.task
async def right(
    key: str,
    *,
    one: Pool = Depends(coroutine, scope="worker"),
    two: Pool = Depends(generator, scope="job"),
    three: Pool = Depends(context),
    four: str = Depends(word),
    five: Pool | None = Depends(coroutine),
    six: str = Depends(lambda: "six"),
) -> None: ...


@app.task
async def wrong(
    key: str,
    *,
    one: str = Depends(plain),  # E
    two: Pool = Depends(word),  # E
    three: str = Depends(generator),  # E
    four: str = Depends(context),  # E
    five: Pool = Depends(coroutine, scope="request"),  # E
    six: Pool = Depends("pool"),  # E
) -> None: ...


async def defer() -> None:
    await right.defer("key")
    await wrong.defer("key", scope="job")  # E
