"""Bad input from callers: the right error at the earliest moment, and nothing enqueued."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from math import nan
from typing import Any

import pytest

from taskq import App, Depends, Tasks
from taskq.errors import (
    ConfigError,
    DuplicateTask,
    EncodeError,
    PayloadTooLarge,
    UnknownScheme,
    UnknownTask,
)

pytestmark = pytest.mark.anyio


class Opaque:
    pass


@dataclass
class Order:
    id: int
    extras: Any = None


mail = Tasks()


@mail.task(name="mail.send")
async def send(order: Order, at: datetime | None = None, weight: float | None = None, *notes: str) -> str:
    return f"{order} {at} {weight} {notes}"


@asynccontextmanager
async def nothing_enqueued(url: str) -> AsyncGenerator[App]:
    """An app in which all that is tried leaves no job."""
    app = App(url)

    @app.task(name="mail.send")
    async def _(order: Order, at: datetime | None = None, weight: float | None = None, *notes: str) -> str:
        return f"{order} {at} {weight} {notes}"

    async with app:
        yield app
        assert await app.admin.stats() == []


# Arguments


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing a required argument: 'order'"),
        ((Order(1),), {"wait": 5}, "unexpected keyword argument 'wait'"),
        ((Order(1),), {"order": Order(2)}, "multiple values for argument 'order'"),
        ((5,), {}, "order: Expected `object`, got `int`"),
        ((Order("one"),), {}, r"order\.id: Expected `int`, got `str`"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - what is refused
        ((Order(1, [Opaque()]),), {}, r"order\.extras\[0\]: a Opaque would not arrive as it was sent; annotate"),
        ((Order(1, {"tags": {"a"}}),), {}, r"order\.extras\.tags: a set would not arrive as it was sent"),
        ((Opaque(),), {}, "order: a Opaque cannot be sent"),
        ((Order(1), datetime(2030, 1, 1)), {}, "at: .* has no time zone; say which moment is meant"),  # noqa: DTZ001
        ((Order(1),), {"weight": nan}, "weight: nan cannot be sent"),
        ((Order(1), None, None, "a", 5), {}, r"notes\[1\]: Expected `str`, got `int`"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_with_their_path(
    url: str, args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    async with nothing_enqueued(url) as app:
        task = app.find_task("mail.send")
        with pytest.raises(EncodeError, match=says):
            await task.defer(*args, **kwargs)
        with pytest.raises(EncodeError, match=says):
            task.call(*args, **kwargs)
        with pytest.raises(EncodeError, match=says):
            await task.options(unique=True).defer(*args, **kwargs)


async def test_a_larger_call_than_the_broker_takes_is_refused(url: str) -> None:
    async with nothing_enqueued(url) as app:
        size = app.backend.broker.traits.max_size
        with pytest.raises(PayloadTooLarge, match="store the content elsewhere and pass where it is"):
            await app.find_task("mail.send").defer(Order(1, "x" * size))


# Options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dely": 5}, "unknown option 'dely'; did you mean 'delay'"),
        ({"delay": -5}, "delay=-5: give seconds of at least 0"),
        ({"run_at": datetime(2030, 1, 1)}, "give a datetime with a time zone"),  # noqa: DTZ001 - what is refused
        ({"delay": 5, "run_at": datetime.fromisoformat("2030-01-01T00:00Z")}, "contradict each other: give one"),
        ({"on_conflict": "raise"}, "give unique=, too"),
        ({"unique": ("recipient",)}, "made of 'recipient', which is none of its arguments"),
        ({"group": ("recipient",)}, "made of 'recipient', which is none of its arguments"),
        ({"queue": "no spaces"}, "queue name 'no spaces': use up to 64 letters"),
        ({"id": "half \ud800"}, "give text of 1 to 200 characters"),
        ({"headers": {"a": 1}}, "they map text to text"),
    ],
)
async def test_options_that_make_no_sense_are_refused_where_they_are_said(url: str, options: Any, says: str) -> None:
    async with nothing_enqueued(url) as app:
        with pytest.raises(ConfigError, match=says):
            app.find_task("mail.send").options(**options)


async def test_a_transaction_of_something_else_is_refused(url: str) -> None:
    async with nothing_enqueued(url) as app:
        with pytest.raises(ConfigError):
            await app.find_task("mail.send").options(tx=object()).defer(Order(1))


# Tasks


def test_a_key_of_what_the_task_does_not_take_is_refused_where_the_task_is_declared() -> None:
    app = App("memory://")

    with pytest.raises(ConfigError, match=r"made of 'recipient', which is none of its arguments \(to\)"):

        @app.task(unique=("recipient",))
        async def _(to: str) -> None: ...


def test_a_name_that_is_taken_is_refused() -> None:
    app = App("memory://")
    app.include(mail)

    with pytest.raises(DuplicateTask, match=r"a task named mail\.send already; give one of them another name="):
        app.include(mail)


def test_a_task_belongs_to_one_app() -> None:
    other = Tasks()

    @other.task(name="other")
    async def _() -> None: ...

    App("memory://").include(other)
    with pytest.raises(ConfigError, match="task other belongs to another app already"):
        App("memory://").include(other)


def test_a_function_whose_arguments_cannot_cross_the_wire_is_no_task() -> None:
    app = App("memory://")

    with pytest.raises(ConfigError, match="parameter 'what': a Opaque cannot cross the wire; pass an id instead"):

        @app.task
        async def _(what: Opaque) -> None: ...

    assert app.registry.tasks == {}


def test_a_refused_task_takes_no_name() -> None:
    app = App("memory://")

    with pytest.raises(ConfigError, match="none of its arguments"):
        app.task(name="mail.send", unique=("recipient",))(lambda: None)
    app.task(name="mail.send")(lambda: None)


async def test_an_unknown_task_is_answered_with_the_known_ones(url: str) -> None:
    async with nothing_enqueued(url) as app:
        with pytest.raises(UnknownTask, match=r"no task is named 'mail\.sned' \(known: mail\.send\)"):
            app.find_task("mail.sned")


async def test_what_workers_are_provided_with_is_missed_by_a_plain_call() -> None:
    app = App("memory://")

    @app.task(name="mail.send")
    async def send(to: str, *, pool: str = Depends(lambda: "pool")) -> str:
        return f"{to} by {pool}"

    async with app:
        with pytest.raises(ConfigError, match=r"task mail\.send: 'pool' is provided to workers; pass it"):
            await send("a")
        assert await send("a", pool="mine") == "a by mine"
        assert await send.run_inline("a") == "a by pool"


# Apps


async def test_a_task_without_an_app_cannot_be_deferred() -> None:
    lonely = Tasks()

    @lonely.task(name="lonely")
    async def task() -> None: ...

    with pytest.raises(ConfigError, match=r"task lonely belongs to no app yet: app\.include\(\)"):
        await task.defer()


async def test_an_app_that_is_not_open_says_how_to_open_it() -> None:
    app = App("memory://")

    @app.task
    async def task() -> None: ...

    with pytest.raises(ConfigError, match="write `async with app:` around this"):
        await task.defer()


async def test_an_app_is_opened_once_in_a_loop(url: str) -> None:
    async with App(url) as app:
        with pytest.raises(ConfigError, match="open already in this event loop"):
            await app.__aenter__()


async def test_a_blocking_call_inside_a_loop_is_refused(url: str) -> None:
    async with nothing_enqueued(url) as app:
        with pytest.raises(RuntimeError, match=r"await defer\(\) or result\(\) instead"):
            app.find_task("mail.send").defer_sync(Order(1))


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("rabbit://localhost", UnknownScheme, "no backend answers to rabbit://"),
        ("taskq.db", ConfigError, "is no URL; write something like"),
        ("memory://somewhere", ConfigError, "write memory://"),
        ("sqlite:///taskq.db?tiemout=5", ConfigError, "tiemout"),
    ],
)
async def test_a_url_that_leads_nowhere_is_refused_when_the_app_opens(
    url: str, error: type[ConfigError], says: str
) -> None:
    with pytest.raises(error, match=says):
        await App(url).__aenter__()


def test_a_setting_nobody_knows_is_refused_where_the_app_is_made() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'slot' .*; did you mean 'slots'"):
        App("memory://", slot=5)


@pytest.mark.parametrize("queues", [["no spaces"], ["mail", ""], ["!mail"], ["mail/*"]])
async def test_a_worker_does_not_wait_at_a_queue_that_cannot_be(url: str, queues: list[str]) -> None:
    async with App(url) as app:
        with pytest.raises(ConfigError, match=r"queues: .*(fits|takes) no queue"):
            await app.run_worker(queues=queues, until="idle")
