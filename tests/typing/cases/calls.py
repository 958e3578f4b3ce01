"""Calls of tasks: the arguments of the function, and its result.

A line with ``# E`` must be an error to every type checker, and no other line may be one.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import assert_type

from taskq import App, Collect, Depends, JobHandle, Tasks
from taskq.call import Call


class Pool: ...


def get_pool() -> Pool:
    return Pool()


app = App("memory://")
mail = Tasks()


@app.task
async def send(to: str, *, subject: str = "") -> int:
    return len(to + subject)


@app.task(queue="reports", timeout=30)
def render(pages: int, at: datetime | None = None) -> str:
    return str(pages) + str(at)


@mail.task
async def greet(name: str) -> None: ...


@mail.task(name="farewell", idempotent=True)
async def part(name: str) -> bytes:
    return name.encode()


@app.task
async def store(key: str, *, pool: Pool = Depends(get_pool)) -> bool:
    return bool(key) and bool(pool)


app.include(mail)


async def arguments_are_those_of_the_function() -> None:
    await send.defer("a@example.org", subject="Hi")
    await send.defer(to="a@example.org")
    await send.defer()  # E
    await send.defer(5)  # E
    await send.defer("a@example.org", "Hi")  # E
    await send.defer("a@example.org", subjekt="Hi")  # E
    await send.defer("a@example.org", subject=None)  # E
    await render.defer(3)
    await render.defer("3")  # E
    await render.defer(3, at="now")  # E
    await greet.defer(name="Ada")
    await greet.defer()  # E
    await part.defer(b"Ada")  # E


def sync_callers_are_no_less_typed() -> None:
    handle = send.defer_sync("a@example.org")
    assert_type(handle.result_sync(timeout=1), int)
    send.defer_sync(5)  # E
    render.defer_sync()  # E


async def what_is_provided_is_not_asked_of_the_caller() -> None:
    await store.defer("key")
    await store.defer()  # E
    await store.defer("key", pool=5)  # E


async def results_are_those_of_the_function() -> None:
    handle = await send.defer("a@example.org")
    assert_type(handle, JobHandle[int])
    count: int = await handle.result()
    text: str = await handle.result()  # E
    handle.result()  # E
    rendered: str = await (await render.defer(3)).result()
    number: int = await (await render.defer(3)).result()  # E
    raw: bytes = await (await part.defer("Ada")).result(timeout=5)
    assert [count + 1, text, rendered.upper(), number, raw.hex()]
    (await handle.result()).upper()  # E
    handle.resullt()  # E


@app.task(collect=Collect(size=500, wait=300))
async def count(views: list[int]) -> float:
    return sum(views)


@app.task(collect=Collect(key=("post",)), queue="counts")
def count_in_a_thread(views: list[dict[str, str]]) -> int:
    return len(views)


async def what_is_collected_is_deferred_by_the_item() -> None:
    assert_type(await count.defer(3), JobHandle[float])
    assert_type(await count_in_a_thread.defer({"post": "1"}), JobHandle[int])
    await count.defer([3])  # E
    await count.defer()  # E


async def a_plain_call_is_a_plain_call() -> None:
    assert_type(await send("a@example.org"), int)
    assert_type(await render(3), str)
    assert_type(await send.run_inline("a@example.org"), int)
    assert_type(await app.run_inline(send.call("a@example.org"), retries=True), int)
    await send(5)  # E
    await render()  # E
    await send.run_inline()  # E


async def inert_calls_are_typed() -> None:
    assert_type(send.call("a@example.org"), Call[int])
    send.call()  # E
    send.call(5)  # E
    handles = await app.defer_many(send.call(to) for to in ["a@example.org"])
    assert_type(handles, Sequence[JobHandle[int]])
    counts: list[int] = [await handle.result() for handle in handles]
    words: list[str] = [await handle.result() for handle in handles]  # E
    await app.defer_many([send])  # E
    await app.defer_many([send.defer("a@example.org")])  # E
    assert [counts, words]
