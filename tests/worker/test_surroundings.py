"""What surrounds a handler: middleware, dependencies, lifespan, and what a caller's context carries to it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from msgspec.structs import replace

from taskq import App, Current, Death, Depends, current
from taskq.errors import JobFailed, Vetoed
from taskq.events import JobVetoed
from taskq.job import Job
from taskq.middleware import Handler
from taskq.retry import Retry
from taskq.testing import deferred, run_until_idle
from tests.worker.moves import heard

pytestmark = pytest.mark.anyio

_request: ContextVar[str] = ContextVar("request", default="")
_user: ContextVar[str] = ContextVar("user", default="nobody")


async def test_middleware_wraps_handlers_from_the_outside_in(url: str) -> None:
    order: list[str] = []

    def layer(name: str) -> Any:
        async def wrap(current: Current, proceed: Handler) -> Any:
            order.append(f"{name} before {current.task.rpartition('.')[2]}")
            value = await proceed(current)
            order.append(f"{name} after")
            return value + 1

        return wrap

    app = App(url, middleware=[layer("app")])

    @app.task(middleware=[layer("outer"), layer("inner")])
    async def answer() -> int:
        order.append("handler")
        return 40

    async with app:
        job = await answer.defer()
        await run_until_idle(app)
        assert await job.result() == 43
    assert order == [
        "app before answer",
        "outer before answer",
        "inner before answer",
        "handler",
        "inner after",
        "outer after",
        "app after",
    ]


async def test_middleware_may_change_arguments_or_answer_by_itself() -> None:
    async def double(current: Current, proceed: Handler) -> Any:
        (n,), named = current.arguments
        current.arguments = (2 * n,), named
        return await proceed(current)

    async def shortcut(_current: Current, _proceed: Handler) -> Any:
        return "cached"

    app = App("memory://")

    @app.task(middleware=[double])
    async def echo(n: int) -> int:
        return n

    @app.task(middleware=[shortcut])
    async def never() -> str:
        raise AssertionError

    async with app:
        first, second = await echo.defer(21), await never.defer()
        await run_until_idle(app)
        assert (await first.result(), await second.result()) == (42, "cached")


async def test_what_middleware_raises_is_the_outcome() -> None:
    async def refuse(_current: Current, _proceed: Handler) -> Any:
        raise PermissionError("not today")

    app = App("memory://", middleware=[refuse])

    @app.task(retry=Retry.never())
    async def answer() -> int:
        return 42

    async with app:
        job = await answer.defer()
        await run_until_idle(app)
        with pytest.raises(JobFailed, match="PermissionError: not today"):
            await job.result()


async def test_defer_middleware_sees_and_changes_each_job(url: str) -> None:
    async def stamp(job: Job) -> Job:
        return replace(job, headers={**job.headers, "by": "stamp"})

    app = App(url, defer_middleware=[stamp])

    @app.task
    async def note() -> None: ...

    async with app:
        await note.defer()
        await app.defer_many([note.call(), note.call()])
        assert [job.record.job.headers for job in await deferred(app)] == [{"by": "stamp"}] * 3


async def test_a_veto_refuses_one_job_and_is_told() -> None:
    async def veto(job: Job) -> Job:
        if b"bad" in job.body:
            raise Vetoed("this one is bad")
        return job

    app = App("memory://", defer_middleware=[veto])
    vetoes = heard(app, JobVetoed)

    @app.task
    async def note(name: str) -> None: ...

    async with app:
        with pytest.raises(Vetoed, match="this one is bad"):
            await note.defer("bad")
        calls = [note.call("good"), note.call("bad"), note.call("fine")]
        answers = [answer.error async for answer in app.defer_each(calls)]
        assert [type(error) for error in answers] == [type(None), Vetoed, type(None)]
        assert [job.arguments["name"] for job in await deferred(app)].count("bad") == 0
    assert [(veto.task, veto.reason) for veto in vetoes] == [(note.name, "this one is bad")] * 2


async def test_context_variables_travel_with_the_job_and_no_further(url: str) -> None:
    app = App(url, slots=1, context=[_request, _user])
    seen: list[tuple[str, str]] = []

    @app.task
    async def look() -> None:
        seen.append((_request.get(), _user.get()))

    async with app:
        token = _request.set("request-1")
        await look.options(priority=2).defer()
        _request.reset(token)
        token = _user.set("ada")
        await look.options(priority=1).defer()
        _user.reset(token)
        await look.defer()
        await run_until_idle(app)
    assert seen[0] == ("request-1", "nobody")
    assert seen[1] == ("", "ada")
    assert seen[2] == ("", "nobody")


async def test_context_variables_reach_retries_what_follows_a_death_and_what_a_batch_brings_about(url: str) -> None:
    app = App(url, context=[_request])
    seen: list[tuple[str, str]] = []

    def note(what: str) -> None:
        seen.append((what, _request.get()))

    @app.task
    async def told(_death: Death) -> None:
        note("death")

    @app.task(retry=Retry.fixed(2, 0), on_dead=told.name)
    async def fail() -> None:
        note(f"attempt {current().attempt}")
        raise RuntimeError

    @app.task
    async def finished() -> None:
        note("batch")

    async with app:
        token = _request.set("request-1")
        async with app.batch("all", finished=finished.call()) as batch:
            await batch.add([fail.call()])
        _request.reset(token)
        await run_until_idle(app)
    assert sorted(seen) == [(what, "request-1") for what in ("attempt 1", "attempt 2", "batch", "death")]


async def test_dependencies_are_opened_once_per_scope_and_closed_in_reverse(url: str) -> None:
    log: list[str] = []

    async def config() -> AsyncGenerator[str]:
        log.append("open config")
        yield "config"
        log.append("close config")

    @asynccontextmanager
    async def pool(*, config: str = Depends(config)) -> AsyncGenerator[str]:
        log.append("open pool")
        yield f"pool of {config}"
        log.append("close pool")

    async def session(*, pool: str = Depends(pool, scope="worker")) -> AsyncGenerator[str]:
        log.append("open session")
        yield f"session of {pool}"
        log.append("close session")

    app = App(url, slots=1)

    @app.task
    async def use(n: int, *, session: str = Depends(session, scope="job")) -> str:
        log.append(f"use {n}")
        return session

    @app.task
    async def look(*, pool: str = Depends(pool, scope="worker")) -> str:
        return pool

    async with app:
        first, second = [await use.options(priority=-n).defer(n) for n in (1, 2)]
        third = await look.defer()
        await run_until_idle(app, raise_failures=True)
        assert await first.result() == await second.result() == "session of pool of config"
        assert await third.result() == "pool of config"
        log.append("worker ended")
    job = ["open session", "use {}", "close session"]
    assert log == [
        "open config",
        "open pool",
        *(line.format(1) for line in job),
        *(line.format(2) for line in job),
        "close pool",
        "worker ended",
        "close config",
    ]


async def test_a_dependency_of_a_job_that_fails_is_closed_with_it() -> None:
    log: list[str] = []

    async def session() -> AsyncGenerator[str]:
        try:
            yield "session"
        except ZeroDivisionError:
            log.append("rolled back")
            raise
        finally:
            log.append("closed")

    app = App("memory://")

    @app.task(retry=Retry.never())
    async def fail(*, session: str = Depends(session, scope="job")) -> None:
        raise ZeroDivisionError(session)

    async with app:
        await fail.defer()
        worked = await run_until_idle(app)
    assert [event.end for event in worked.finished] == ["failed"]
    assert log == ["rolled back", "closed"]


async def test_a_provider_may_be_anything_that_makes_a_value() -> None:
    def plain() -> str:
        return "plain"

    async def awaited() -> str:
        return "awaited"

    async def generated() -> AsyncGenerator[str]:
        yield "generated"

    app = App("memory://")

    @app.task
    async def use(
        *,
        a: str = Depends(plain),
        b: str = Depends(awaited),
        c: str = Depends(generated),
    ) -> list[str]:
        return [a, b, c]

    async with app:
        job = await use.defer()
        await run_until_idle(app)
        assert await job.result() == ["plain", "awaited", "generated"]


async def test_a_provider_can_be_replaced_for_a_test() -> None:
    def mailer() -> str:
        raise AssertionError("not in tests")

    app = App("memory://")

    @app.task
    async def send(*, mailer: str = Depends(mailer)) -> str:
        return mailer

    app.overrides[mailer] = lambda: "fake"
    async with app:
        job = await send.defer()
        await run_until_idle(app)
        assert await job.result() == "fake"
        assert await send.run_inline() == "fake"


async def test_the_lifespan_opens_before_the_first_job_and_closes_after_the_last(url: str) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncGenerator[None]:
        log.append(f"open {app.backend.broker.traits.durability}")
        yield
        log.append("close")

    app = App(url, lifespan=lifespan)

    @app.task
    async def work() -> None:
        log.append("work")

    async with app:
        await work.defer()
        async with app.working():
            pass
        await run_until_idle(app)
    assert log[0].startswith("open")
    assert log[1:] == ["work", "close"]


async def test_a_lifespan_that_fails_opens_no_app() -> None:
    @asynccontextmanager
    async def lifespan(_: App) -> AsyncGenerator[None]:
        raise ConnectionError("no database")
        yield

    app = App("memory://", lifespan=lifespan)
    for _ in range(2):
        with pytest.raises(ConnectionError, match="no database"):
            async with app:
                raise AssertionError


async def test_inline_a_job_runs_as_a_worker_would_run_it() -> None:
    async def shout(current: Current, proceed: Handler) -> Any:
        return f"{await proceed(current)}!"

    def greeting() -> str:
        return "hello"

    app = App("memory://", middleware=[shout])

    @app.task
    async def greet(name: str, *, word: str = Depends(greeting)) -> str:
        return f"{word} {name}"

    @app.task
    async def fail() -> int:
        raise KeyError("as it was")

    async with app:
        assert await greet.run_inline("ada") == "hello ada!"
        assert await greet("ada", word="hi") == "hi ada"
        with pytest.raises(KeyError, match="as it was"):
            await fail.run_inline()
        assert await deferred(app) == []
