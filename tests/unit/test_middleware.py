"""Layers around handlers, and before the queue."""

import asyncio
from contextvars import Context, ContextVar, copy_context
from typing import Any

import msgspec
import pytest

from taskq.context import Current
from taskq.errors import Vetoed
from taskq.job import Delivery, Job
from taskq.middleware import DeferMiddleware, Handler, Middleware, carry, compose, pass_through

pytestmark = pytest.mark.anyio

JOB = Job(id="j", task="t", body=b"", headers={"own": "1"})


def current(job: Job = JOB) -> Current:
    delivery = Delivery(job=job, attempt=1, losses=0, fence=1, receipt="r", now=0.0, due=0.0)
    return Current(delivery, ((), {}))


def noting(notes: list[str], name: str) -> Middleware:
    async def layer(current: Current, proceed: Handler) -> Any:
        notes.append(f"{name} before")
        try:
            return f"{name}({await proceed(current)})"
        finally:
            notes.append(f"{name} after")

    return layer


async def test_the_first_layer_is_the_outermost() -> None:
    notes: list[str] = []

    async def handler(_current: Current) -> str:
        notes.append("handler")
        return "result"

    result = await compose(handler, [noting(notes, "a"), noting(notes, "b")])(current())

    assert result == "a(b(result))"
    assert notes == ["a before", "b before", "handler", "b after", "a after"]


async def test_without_layers_it_is_the_handler_itself() -> None:
    async def handler(_current: Current) -> None: ...

    assert compose(handler, []) is handler


async def test_what_the_handler_raises_passes_through_the_layers() -> None:
    notes: list[str] = []

    async def handler(_current: Current) -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        await compose(handler, [noting(notes, "a")])(current())
    assert notes == ["a before", "a after"]


async def test_a_layer_may_answer_in_place_of_the_handler() -> None:
    async def handler(_current: Current) -> str:
        raise AssertionError("never called")

    async def cached(_current: Current, _proceed: Handler) -> str:
        return "cached"

    assert await compose(handler, [cached])(current()) == "cached"


def tagging(tag: str) -> DeferMiddleware:
    async def layer(job: Job) -> Job:
        return msgspec.structs.replace(job, headers={**job.headers, "tags": job.headers.get("tags", "") + tag})

    return layer


async def test_the_first_defer_layer_sees_the_job_first() -> None:
    job = await pass_through(JOB, [tagging("a"), tagging("b")])

    assert job.headers == {"own": "1", "tags": "ab"}
    assert await pass_through(JOB, []) is JOB


async def test_a_veto_ends_the_way_in() -> None:
    async def refuse(_job: Job) -> Job:
        raise Vetoed("not on Sundays")

    async def unreached(_job: Job) -> Job:
        raise AssertionError("never called")

    with pytest.raises(Vetoed, match="not on Sundays"):
        await pass_through(JOB, [refuse, unreached])


async def test_context_variables_travel_as_headers() -> None:
    request: ContextVar[str] = ContextVar("request")
    user: ContextVar[str] = ContextVar("user")
    pack, unpack = carry([request, user])

    def in_a_request() -> None:
        request.set("r-1")

    caller = copy_context()
    caller.run(in_a_request)
    job = await _in(caller, pack, JOB)

    async def handler(_current: Current) -> tuple[str, str]:
        return request.get("none"), user.get("none")

    assert job.headers == {"own": "1", "context-request": "r-1"}
    assert await compose(handler, [unpack])(current(job)) == ("r-1", "none")


async def test_nothing_to_carry_leaves_the_job_as_it_is() -> None:
    pack, _ = carry([ContextVar[str]("request")])

    assert await pack(JOB) is JOB


async def _in(context: Context, layer: DeferMiddleware, job: Job) -> Job:
    """A layer's answer from inside another context."""
    return await asyncio.create_task(_answer(layer, job), context=context)


async def _answer(layer: DeferMiddleware, job: Job) -> Job:
    return await layer(job)
