"""A trait is tested by taking it away and seeing the app refuse, before anything is sent."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from taskq import App, Collect, Concurrency, RateLimit, Task
from taskq.brokers import Sites
from taskq.errors import MissingCapability, PartlyEnqueued, PayloadTooLarge
from taskq.pools import DEFAULT
from taskq.tasks import make_task
from taskq.testing.run import run_until_idle
from tests.bad_input.weaker import Weaker

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("weaker")]

COMPANION = "pair the broker with a companion store, or choose another broker"


async def handler(key: str = "") -> int:
    return len(key)


def app_without(taken: str, **options: Any) -> tuple[App, Task[..., Any]]:
    app = App(f"weaker://{taken}")
    return app, app.registry.add(make_task(handler, {"name": "mail.send", **options}))


@asynccontextmanager
async def nothing_enqueued(app: App) -> AsyncGenerator[None]:
    async with app:
        yield
        assert isinstance(app.backend.broker, Weaker)
        assert app.backend.broker.calls == []


# What a schedule says is refused as what a task says


@pytest.mark.parametrize(
    ("taken", "options", "need"),
    [
        ("store", {}, "a Store"),
        ("admin", {"overlap": "skip"}, "administration"),
        ("admin", {"block_while_failed": True}, "administration"),
        ("groups", {"overlap": "queue_one"}, "groups"),
    ],
)
async def test_an_app_does_not_open_where_a_schedule_needs_what_is_not_there(
    taken: str, options: dict[str, Any], need: str
) -> None:
    app, task = app_without(taken)
    app.schedule("every 1h", name="hourly", **options)(task)

    with pytest.raises(MissingCapability) as caught:
        await app.__aenter__()
    assert str(caught.value) == f"schedule hourly: it needs {need}" + str(caught.value).partition(need)[2]
    assert COMPANION in str(caught.value)


async def test_a_schedule_made_at_run_time_is_refused_before_it_is_kept() -> None:
    app, task = app_without("admin")
    async with app:
        with pytest.raises(MissingCapability, match="administration"):
            await app.schedules.create("hourly", task.call(), "every 1h", overlap="skip")
        assert list(await app.schedules.list()) == []


async def test_a_check_tells_what_a_schedule_lacks() -> None:
    app, task = app_without("admin")
    app.schedule("every 1h", name="hourly")(task)
    async with app:
        sites = Sites({DEFAULT: app.backend}, {})
    app.schedule("every 1h", name="skipping", overlap="skip")(task)
    assert [found.subject for found in app.check_on(sites, strict=False) if found.level == "error"] == [
        "schedule skipping"
    ]


# What a task says is refused when the app opens


@pytest.mark.parametrize(
    ("taken", "options", "need", "remedy"),
    [
        ("at_least_once", {}, "delivery at_least_once", COMPANION),
        ("at_most_once", {"delivery": "at_most_once"}, "delivery at_most_once", COMPANION),
        ("unique", {"unique": True}, "unique keys", COMPANION),
        ("groups", {"group": "one"}, "groups", COMPANION),
        ("groups", {"limits": Concurrency(2)}, "groups for its Concurrency", COMPANION),
        ("store", {"limits": [RateLimit(2)]}, "a store for its limits", COMPANION),
        ("ordered", {"priority": 1}, "priorities", "use a queue for each priority"),
        ("results", {"keep": 60}, "kept results", COMPANION),
        ("transactions", {"transaction": True}, "transaction=True", "use PostgreSQL or SQLite"),
        ("fenced", {"transaction": True}, "fenced receipts for transaction=True", COMPANION),
    ],
)
async def test_an_app_does_not_open_where_a_task_needs_what_is_not_promised(
    taken: str, options: dict[str, Any], need: str, remedy: str
) -> None:
    app, task = app_without(taken, **options)

    with pytest.raises(MissingCapability) as caught:
        await app.__aenter__()
    assert str(caught.value) == f"task {task.name}: it needs {need}, which Weaker does not promise: {remedy}"


@pytest.mark.parametrize("taken", ["store", "unique"])
async def test_an_app_that_collects_does_not_open_without_store_and_unique_keys(taken: str) -> None:
    app = App(f"weaker://{taken}")

    @app.task(name="count", collect=Collect())
    async def count(views: list[int]) -> int:
        return len(views)

    with pytest.raises(MissingCapability, match=f"task count: it needs .*{taken}.* for what it collects.*{COMPANION}"):
        await app.__aenter__()


async def test_a_task_that_comes_after_the_opening_is_refused_at_once() -> None:
    app = App("weaker://unique")

    async with nothing_enqueued(app):
        with pytest.raises(MissingCapability, match=r"task mail\.send: it needs unique keys"):
            app.task(name="mail.send", unique=True)(handler)


async def test_what_a_task_does_not_need_keeps_no_app_from_opening() -> None:
    taken = "at_most_once,unique,groups,ordered,idempotent,fenced,exclusive,results,transactions,store,hints"
    app, task = app_without(taken)

    async with app:
        await task.defer("key")
        worked = await run_until_idle(app)
        assert [event.end for event in worked.finished] == ["returned"]


# What a call says is refused by options(), or where it was made before the opening, when it is used

CALLS = [
    ("unique", {"unique": True}, "unique keys", COMPANION),
    ("groups", {"group": ("key",)}, "groups", COMPANION),
    ("ordered", {"priority": -1}, "priorities", "use a queue for each priority"),
    ("idempotent", {"id": "one"}, "ids of one's own", COMPANION),
    ("transactions", {"tx": object()}, "tx=", "use PostgreSQL or SQLite, or an outbox"),
]


@pytest.mark.parametrize(("taken", "options", "need", "remedy"), CALLS)
async def test_options_that_are_not_promised_are_refused_before_anything_is_sent(
    taken: str, options: Any, need: str, remedy: str
) -> None:
    app, task = app_without(taken)

    async with nothing_enqueued(app):
        with pytest.raises(MissingCapability) as caught:
            task.options(**options)
    assert str(caught.value) == f"task mail.send: it needs {need}, which Weaker does not promise: {remedy}"


@pytest.mark.parametrize(("taken", "options", "need", "remedy"), CALLS)
async def test_a_variant_made_before_the_opening_is_refused_when_it_is_used(
    taken: str, options: Any, need: str, remedy: str
) -> None:
    app, task = app_without(taken)
    variant = task.options(**options)

    async with nothing_enqueued(app):
        with pytest.raises(MissingCapability, match=f"it needs {need}, .*: {remedy}"):
            await variant.defer("key")
        with pytest.raises(MissingCapability, match=f"it needs {need}, .*: {remedy}"):
            variant.call("key")


# Parts that are asked for while running


async def test_without_results_nobody_can_wait_for_an_outcome() -> None:
    app, task = app_without("results")

    async with app:
        handle = await task.defer("key")
        with pytest.raises(MissingCapability, match=f"has no kept results: {COMPANION.replace('the broker', 'it')}"):
            await handle.result(timeout=1)


async def test_without_admin_nobody_can_look_or_cancel() -> None:
    app, task = app_without("admin")

    async with app:
        handle = await task.defer("key")
        for look in (handle.cancel, handle.status):
            with pytest.raises(MissingCapability, match="has no administration"):
                await look()


async def test_without_admin_no_worker_can_tell_that_nothing_is_left() -> None:
    app, _ = app_without("admin")

    async with app:
        with pytest.raises(MissingCapability, match="has to count what is left"):
            await app.run_worker(until="idle")


async def test_without_a_store_no_queue_can_be_paused() -> None:
    app, _ = app_without("store")

    async with app:
        for change in (app.pause, app.resume):
            with pytest.raises(MissingCapability, match="this broker has no store: pair it"):
                await change("default")


async def test_without_hints_everything_works_a_little_later() -> None:
    app, task = app_without("hints")

    async with app:
        handle = await task.defer("key")
        cancelled = await task.options(delay=60).defer("key")
        assert await cancelled.cancel()
        await run_until_idle(app)
        assert await handle.result(timeout=1) == 3
        assert (await cancelled.outcome(timeout=1)).end == "cancelled"


# Measures


async def test_a_larger_call_than_the_broker_takes_is_refused_before_it_is_sent() -> None:
    app, task = app_without("max_size=100")

    async with nothing_enqueued(app):
        with pytest.raises(
            PayloadTooLarge, match=r"task mail\.send: the call takes 1,\d\d\d bytes, the broker 100; stor"
        ):
            await task.defer("x" * 1000)


async def test_of_many_calls_only_the_oversize_one_is_refused() -> None:
    app, task = app_without("max_size=100")

    async with app:
        with pytest.raises(PartlyEnqueued, match=r"1 of 3 jobs were refused, .*store the content") as caught:
            await app.defer_many(task.call(key) for key in ("a", "x" * 1000, "c"))
        assert list(caught.value.errors) == [1]
        assert isinstance(caught.value.errors[1], PayloadTooLarge)
        assert [stats.ready for stats in await app.admin.stats()] == [2]


async def test_no_call_brings_more_jobs_than_the_broker_takes() -> None:
    app, task = app_without("max_batch=10")

    async with app:
        handles = await app.defer_many(task.call(str(number)) for number in range(25))
        assert isinstance(app.backend.broker, Weaker)
        assert app.backend.broker.calls == [10, 10, 5]
        assert len({handle.id for handle in handles}) == 25
