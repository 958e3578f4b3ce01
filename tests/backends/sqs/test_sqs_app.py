"""An app on SQS: what it may count on, and what keeps it from opening."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import anyio
import pytest

from taskq import App, Collect, Concurrency, Debounce, RateLimit, current, gather
from taskq.errors import MissingCapability
from taskq.job import Nack
from taskq.report import Death
from taskq.retry import Retry
from taskq.testing.deployment import a_job, add, names, nothing, take, take_one
from tests.backends.sqs.deployment import Tenant
from tests.servers.process import Process

pytestmark = pytest.mark.anyio

NEEDS: list[tuple[dict[str, Any], str]] = [
    ({"unique": True}, "unique keys.*a companion"),
    ({"group": True}, "groups.*a companion"),
    ({"priority": 1}, "priorities.*use a queue for each priority"),
    ({"keep": 60}, "kept results.*a companion"),
    ({"delivery": "at_most_once"}, "delivery at_most_once.*a companion"),
    ({"transaction": True}, "transaction=True.*use PostgreSQL or SQLite"),
    ({"limits": RateLimit(1, per=1)}, "a store for its limits.*a companion"),
    ({"limits": Concurrency(1)}, "groups for its Concurrency.*a companion"),
    ({"collect": Collect(1)}, "a store for what it collects.*a companion"),
    ({"debounce": Debounce(1)}, "unique keys.*a companion"),
    ({"capture": 1000}, "a store for what it captures.*a companion"),
]


@pytest.mark.parametrize("fifo", [0, 1])
@pytest.mark.parametrize(("options", "need"), NEEDS)
async def test_what_sqs_cannot_do_keeps_the_app_from_opening(
    sqs: Process, options: dict[str, Any], need: str, fifo: int
) -> None:
    app = App(Tenant(sqs, fifo=fifo).url)

    async def note(n: int) -> None: ...

    async def note_all(calls: Sequence[int]) -> None: ...

    said: dict[str, Any] = {"idempotent": True, **options}
    app.task(name="note", **said)(note_all if "collect" in options else note)

    with pytest.raises(MissingCapability, match=rf"task note: .*{need}"):
        async with app:
            pass


async def test_a_task_that_must_not_repeat_is_refused_and_told_where_a_message_may_come_twice_at_once(
    sqs: Process,
) -> None:
    for fifo, when in ((0, "at any time, and twice at once"), (1, "after a crash")):
        app = App(Tenant(sqs, fifo=fifo).url)

        @app.task(name="note", idempotent=False)
        async def note(n: int) -> None: ...

        with pytest.raises(MissingCapability, match=rf"task note: it may run more than once {when}"):
            async with app:
                pass


async def test_a_schedule_keeps_the_app_from_opening(sqs: Process) -> None:
    app = App(Tenant(sqs).url)

    @app.schedule("every 10s", name="often")
    @app.task(idempotent=True)
    async def note() -> None: ...

    with pytest.raises(MissingCapability, match=r"schedule often: it needs a Store.*a companion"):
        async with app:
            pass


async def test_what_is_asked_of_a_running_app_names_the_companion_too(sqs: Process) -> None:
    app = App(Tenant(sqs).url)

    @app.task(idempotent=True)
    async def note(n: int) -> int:
        return n

    @app.task(idempotent=True)
    async def told(death: Death) -> None: ...

    async with app:
        job = await note.defer(1)
        asking: Sequence[Callable[[], Awaitable[object]]] = [
            job.cancel,
            job.status,
            job.result,
            job.progress,
            partial(app.defer, gather(note.call(1), note.call(2))),
            partial(app.defer, note.call(1).then(note)),
            partial(app.defer, note.call(1).on_failure(told)),
        ]
        for ask in asking:
            with pytest.raises(MissingCapability, match="a companion"):
                await ask()
        with pytest.raises(MissingCapability, match="a companion"):
            async with app.batch("b"):
                pass


async def test_what_is_not_promised_is_not_done(sqs: Process) -> None:
    """A trait that was declared false too modestly would cost its users for nothing."""
    async with Tenant(sqs).open() as backend:
        await add(backend.broker, a_job("q"), a_job("q", unique="k"), a_job("q", unique="k", group="g"))
        await add(backend.broker, a_job("q", group="g"))
        assert names(await take(backend.broker, "q", 4)) == ["a"] * 4
        await add(backend.broker, a_job("q", "low"), a_job("q", "high", priority=9))
        assert names(await take(backend.broker, "q")) == ["low"]


async def test_a_retry_on_a_fifo_queue_is_behind_the_others_of_its_group(sqs: Process) -> None:
    async with Tenant(sqs, fifo=1).open() as backend:
        await add(backend.broker, a_job("q", "one", group="g", unique="k"), a_job("q", "two", group="g", unique="k"))
        one = await take_one(backend.broker, "q")
        assert await backend.broker.settle([Nack(one.receipt, 0)]) == [True]
        assert names([one, *await take(backend.broker, "q", 1)]) == ["one", "two"]


async def test_an_id_that_comes_again_to_a_fifo_queue_adds_nothing(sqs: Process) -> None:
    async with Tenant(sqs, fifo=1).open() as backend:
        await add(backend.broker, a_job("q"), a_job("q"))
        await add(backend.broker, a_job("q"))
        assert names(await take(backend.broker, "q")) == ["a"]
        assert await nothing(backend.broker, "q")


@pytest.mark.parametrize("fifo", [0, 1])
async def test_jobs_are_delayed_retried_and_set_aside(sqs: Process, fifo: int) -> None:
    app = App(Tenant(sqs, fifo=fifo).url)
    seen: list[tuple[str, int]] = []
    done = anyio.Event()

    @app.task(idempotent=True, retry=Retry.fixed(3, 0.01), on_dead="told")
    async def work(name: str) -> None:
        seen.append((name, current().attempt))
        if name == "mended" and current().attempt < 2:
            raise ConnectionError("by the test")
        if name == "broken":
            raise ValueError("by the test")

    @app.task(name="told", idempotent=True)
    async def told(death: Death) -> None:
        assert death.error is not None
        seen.append((death.error.type, 0))
        done.set()

    async with app, app.working():
        await work.options(delay=1.0).defer("later")
        for name in ("plain", "mended", "broken"):
            await work.defer(name)
        with anyio.fail_after(30):
            await done.wait()
            while ("later", 1) not in seen:  # noqa: ASYNC110 it says so by having run
                await anyio.sleep(0.05)
    runs = [("plain", 1), ("later", 1), ("mended", 1), ("mended", 2), ("broken", 1), ("broken", 2), ("broken", 3)]
    assert sorted(seen) == sorted([*runs, ("ValueError", 0)])


async def test_priorities_go_to_their_bands(sqs: Process) -> None:
    app = App(Tenant(sqs, bands="10,0").url, slots=1)
    order: list[str] = []
    done = anyio.Event()

    @app.task(idempotent=True)
    async def note(name: str) -> None:
        order.append(name)
        if len(order) == 4:
            done.set()

    async with app:
        for name, priority in (("low", 0), ("lower", -5), ("high", 10), ("higher", 99)):
            await note.options(priority=priority).defer(name)
        async with app.working():
            with anyio.fail_after(30):
                await done.wait()
    assert set(order[:2]) == {"high", "higher"}
