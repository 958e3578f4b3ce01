"""A job that is run where it is called: what a worker would make of it, without one."""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest

from taskq import App, Discard, Retry, RetryIn, Snooze, Task, current
from taskq.context import Current
from taskq.errors import JobExpired, JobTimeout, Vetoed
from taskq.job import Job
from taskq.middleware import Handler
from taskq.tasks import make_task

pytestmark = pytest.mark.anyio

who: ContextVar[str] = ContextVar("who", default="nobody")


class Mail(msgspec.Struct, frozen=True):
    to: str
    copies: int = 1


def failing(times: int, error: Callable[[], Exception]) -> Callable[[int], None]:
    def run(runs: int) -> None:
        if runs <= times:
            raise error()

    return run


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("happens", "options"),
    [
        (failing(0, KeyError), {}),
        (failing(2, KeyError), {"retry": Retry.fixed(3, 60)}),
        (failing(9, KeyError), {"retry": Retry.fixed(3, 60)}),
        (failing(9, KeyError), {"retry": Retry(5, dead_on=(KeyError,))}),
        (failing(9, KeyError), {"retry": Retry(5, discard_on=(KeyError,))}),
        (failing(1, lambda: RetryIn(30)), {"retry": 3}),
        (failing(9, lambda: RetryIn(30)), {"retry": 3}),
        (failing(4, lambda: Snooze(30)), {"retry": 2}),
        (failing(1, lambda: Discard("enough")), {}),
        (failing(1, KeyError), {"delivery": "at_most_once"}),
        (failing(3, KeyError), {"retry": Retry(10, within=100.0, curve=lambda _attempt, _chance: 40.0)}),
    ],
)
async def test_with_retries_it_runs_as_often_and_when_a_worker_would_run_it(
    happens: Callable[[int], None], options: dict[str, Any]
) -> None:
    ran: list[tuple[int, float]] = []

    async def send(mail: Mail) -> Mail:
        ran.append((current().attempt, anyio.current_time()))
        happens(len(ran))
        return Mail(mail.to, mail.copies + 1)

    app = App("memory://", keep=3600.0)
    task: Task[[Mail], Mail] = app.registry.add(make_task(send, {"name": "send", **options}))

    def told() -> list[tuple[int, int]]:
        runs = [(attempt, round(moment - ran[0][1])) for attempt, moment in ran]
        ran.clear()
        return runs

    async with app:
        job = await task.defer(Mail("ada"))
        await app.run_worker(until="empty")
        ended, remotely = await job.outcome(0), told()
        if ended.end == "returned":
            assert await app.run_inline(task.call(Mail("ada")), retries=True) == Mail("ada", 2)
        else:
            with pytest.raises((KeyError, RetryIn, Discard)) as caught:
                await app.run_inline(task.call(Mail("ada")), retries=True)
            assert [error.type.rpartition(".")[2] for error in ended.errors[-1:]] in ([], [caught.typename])
        assert told() == remotely


async def test_without_retries_it_runs_once_and_raises_what_the_handler_raised() -> None:
    app = App("memory://")
    runs: list[int] = []

    @app.task
    async def fail(error: str) -> None:
        runs.append(current().attempt)
        raise {"snooze": Snooze(5), "value": ValueError("no")}[error]

    async with app:
        for error, kind in (("value", ValueError), ("snooze", Snooze)):
            with pytest.raises(kind):
                await fail.run_inline(error)
    assert runs == [1, 1]


async def test_it_passes_the_middleware_of_callers_as_well_as_that_of_handlers() -> None:
    async def stamp(job: Job) -> Job:
        if "no" in job.headers:
            raise Vetoed("no")
        return msgspec.structs.replace(job, headers={**job.headers, "stamp": "x"})

    async def shout(current: Current, handler: Handler) -> Any:
        return f"{await handler(current)}!"

    app = App("memory://", middleware=[shout], defer_middleware=[stamp], context=[who])

    @app.task
    async def greet() -> str:
        return f"{current().headers['stamp']} {who.get()}"

    async with app:
        who.set("ada")
        assert await greet.run_inline() == "x ada!"
        with pytest.raises(Vetoed):
            await greet.options(headers={"no": "1"}).run_inline()


@pytest.mark.usefixtures("clock")
async def test_it_ends_within_its_time_outs_and_does_not_begin_too_late() -> None:
    app = App("memory://")

    @app.task(timeout=60, retry=2)
    async def sleep() -> None:
        await anyio.sleep_forever()

    async with app:
        began = anyio.current_time()
        with pytest.raises(JobTimeout, match="ran past its time-out of 60 s"):
            await sleep.run_inline()
        with pytest.raises(JobTimeout, match="ran past its time-out of 5 s"):
            await app.run_inline(sleep.options(timeout=5).call(), retries=True)
        assert anyio.current_time() - began >= 60 + 2 * 5
        with pytest.raises(JobExpired):
            await sleep.options(expires_at=datetime(2001, 1, 1, tzinfo=UTC)).run_inline()


async def test_a_transaction_task_commits_or_rolls_back_what_it_does(url: str) -> None:
    app = App(url)

    @app.task
    async def child() -> None: ...

    @app.task(transaction=True, retry=Retry.never())
    async def parent(fails: bool) -> int:
        await child.options(id=str(fails)).defer()
        if fails:
            raise KeyError
        return 42

    async with app:
        assert await parent.run_inline(False) == 42
        with pytest.raises(KeyError):
            await parent.run_inline(True)
        ready = await app.admin.list_jobs("default", "ready", after=None, limit=10)
        assert [record.job.id for record in ready] == ["False"]


async def test_who_is_cancelled_waiting_cancels_the_handler() -> None:
    app = App("memory://")
    began, ended = anyio.Event(), anyio.Event()

    @app.task
    async def sleep() -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with app:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(sleep.run_inline)
                await began.wait()
                scope.cancel()
        assert ended.is_set()


@pytest.mark.usefixtures("clock")
async def test_what_a_job_remembers_is_there_in_its_next_attempt_and_gone_in_the_next_call() -> None:
    app = App("memory://")
    done: list[str] = []

    @app.task(retry=3)
    async def two_steps() -> None:
        async def first() -> None:
            done.append("first")

        await current().step("first", first)
        done.append("second")
        if current().attempt == 1:
            raise ValueError

    async with app:
        for _ in range(2):
            await app.run_inline(two_steps.options(id="one").call(), retries=True)
    assert done == ["first", "second", "second"] * 2
