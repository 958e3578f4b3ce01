"""What handlers get besides their arguments: made once a scope, closed in reverse."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest

from taskq.depends import Dependency, Depends, Provider, Scope, Scoped, dependencies_of
from taskq.errors import ConfigError

pytestmark = pytest.mark.anyio


def app_scope(overrides: dict[Provider, Provider] | None = None) -> Scoped:
    return Scoped("app", None, overrides or {})


def dependency(provider: Provider, scope: Scope = "app") -> Dependency:
    return Dependency(provider, scope)


def plain() -> str:
    return "plain"


async def coroutine() -> str:
    return "coroutine"


async def generator() -> AsyncGenerator[str]:
    yield "generator"


@asynccontextmanager
async def context() -> AsyncGenerator[str]:
    yield "context"


async def test_functions_coroutines_generators_and_contexts_provide() -> None:
    async with app_scope() as scope:
        wanted = {name: dependency(provider) for name, provider in [
            ("a", plain), ("b", coroutine), ("c", generator), ("d", context)
        ]}  # fmt: skip
        assert await scope.values(wanted) == {"a": "plain", "b": "coroutine", "c": "generator", "d": "context"}


async def test_each_scope_has_its_own_value_and_shares_the_wider_ones() -> None:
    def app_wide() -> object:
        return object()

    def job_wide(*, pool: object = Depends(app_wide)) -> tuple[object, object]:
        return pool, object()

    async with app_scope() as app, app.inner("worker") as worker:
        async with worker.inner("job") as one:
            first = await one.value(dependency(job_wide, "job"))
            again = await one.value(dependency(job_wide, "job"))
        async with worker.inner("job") as two:
            second = await two.value(dependency(job_wide, "job"))

        assert first is again
        assert first is not second
        assert first[0] is second[0] is await app.value(dependency(app_wide))


async def test_what_was_opened_is_closed_the_last_one_first() -> None:
    closed: list[str] = []

    async def outer() -> AsyncGenerator[str]:
        yield "outer"
        closed.append("outer")

    async def inner(*, outer: str = Depends(outer)) -> AsyncGenerator[str]:
        yield f"inner of {outer}"
        closed.append("inner")

    async with app_scope() as scope:
        assert await scope.value(dependency(inner)) == "inner of outer"
        assert closed == []
    assert closed == ["inner", "outer"]


async def test_two_who_ask_at_once_get_one_value() -> None:
    opened: list[str] = []
    go_on = anyio.Event()

    async def pool() -> str:
        opened.append("pool")
        await go_on.wait()
        return "pool"

    async with app_scope() as scope, anyio.create_task_group() as group:

        async def ask() -> None:
            assert await scope.value(dependency(pool)) == "pool"

        for _ in range(3):
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert opened == ["pool"]


async def test_a_provider_that_failed_is_asked_again() -> None:
    failures = [ConnectionError("not yet")]

    async def pool() -> str:
        if failures:
            raise failures.pop()
        return "pool"

    async with app_scope() as scope:
        with pytest.raises(ConnectionError, match="not yet"):
            await scope.value(dependency(pool))
        assert await scope.value(dependency(pool)) == "pool"


async def test_an_override_provides_in_place_of_the_other() -> None:
    async with app_scope({plain: lambda: "fake"}) as scope:
        assert await scope.value(dependency(plain)) == "fake"


async def test_what_lives_longer_cannot_depend_on_what_lives_shorter() -> None:
    def app_wide(*, request: str = Depends(plain, scope="job")) -> str:
        return request

    async with app_scope() as scope, scope.inner("job") as job:
        with pytest.raises(ConfigError, match="has scope 'app', but its 'request' only 'job'"):
            await job.value(dependency(app_wide))


async def test_a_provider_that_asks_for_itself_fails_and_does_not_hang() -> None:
    def wrapping(*, inner: str = Depends(plain)) -> str:
        return f"<{inner}>"

    async with app_scope({plain: wrapping}) as scope:
        with anyio.fail_after(10), pytest.raises(RuntimeError, match="already held"):
            await scope.value(dependency(plain))


async def test_a_parameter_that_a_call_could_fill_cannot_be_provided() -> None:
    def handler(pool: str = Depends(plain)) -> None: ...

    with pytest.raises(ConfigError, match=r"'pool' depends on something; put it behind a \* in the signature"):
        dependencies_of(handler)


async def test_only_what_is_provided_is_a_dependency() -> None:
    def handler(a: int, b: int = 2, *, c: int = 3, pool: str = Depends(plain, scope="job")) -> None: ...

    assert dependencies_of(handler) == {"pool": Dependency(plain, "job")}


async def test_what_can_provide_nothing_is_refused_where_it_is_written() -> None:
    def sync_generator() -> Generator[str]:
        yield "never closed"

    with pytest.raises(ConfigError, match="give a function that provides the value"):
        Depends(cast("Any", "pool"))
    with pytest.raises(ConfigError, match="write async def"):
        Depends(sync_generator)
    with pytest.raises(ConfigError, match="choose app, worker or job"):
        Depends(plain, scope=cast("Any", "request"))


async def test_what_job_scoped_values_need_of_the_worker_is_opened_before_any_job() -> None:
    opened: list[str] = []

    async def pool() -> str:
        opened.append("pool")
        return "pool"

    async def session(*, pool: str = Depends(pool, scope="worker")) -> str:
        return f"session of {pool}"

    async with Scoped("app", None, {}) as app, app.inner("worker") as worker:
        await worker.prepare({"session": Dependency(session, "job")})
        assert opened == ["pool"]
        async with worker.inner("job") as job:
            assert await job.value(Dependency(session, "job")) == "session of pool"
    assert opened == ["pool"]
