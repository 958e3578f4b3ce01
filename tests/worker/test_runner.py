"""The runner: whatever a handler does becomes an outcome, and nothing it does reaches the worker."""

import asyncio
import sys

import anyio
import pytest

from taskq import App, Retry
from taskq.broker import Transactions
from taskq.context import Current
from taskq.errors import DecodeError, JobFailed, JobTimeout
from taskq.job import Delivery
from taskq.middleware import Handler
from taskq.outcome import Decision, Interrupted, Outcome, Policy, Raised, Returned, Undecodable, Unknown
from taskq.testing import VirtualClock, run_until_idle
from taskq.worker.run import Run, Runnable
from taskq.worker.runner import Runner
from tests.worker.moves import a_delivery

pytestmark = pytest.mark.anyio


async def nothing_decided(_run: Run) -> Decision | None:
    return None


async def _return_id(current: Current) -> object:
    return current.id


def _runner(handler: Handler = _return_id, policy: Policy = Policy(keep=60)) -> Runner:  # noqa: B008 - frozen
    def decode(body: bytes) -> tuple[tuple[object, ...], dict[str, object]]:
        if body == b"garbage":
            raise DecodeError("garbage")
        return (), {}

    runnable = Runnable(policy, decode, lambda value: str(value).encode(), handler, None, False)
    no_transactions: Transactions | None = None
    return Runner({"task": runnable}, no_transactions, nothing_decided)


async def _outcome(runner: Runner, delivery: Delivery) -> object:
    run, refused = runner.prepare(delivery)
    return refused if refused is not None else await runner.run(run)


async def test_a_handler_that_returns_has_returned() -> None:
    assert await _outcome(_runner(), a_delivery("one")) == Returned(b"one")


async def test_a_result_nobody_keeps_is_not_encoded() -> None:
    assert await _outcome(_runner(policy=Policy(keep=0)), a_delivery()) == Returned(None)


async def test_a_task_nobody_knows_is_unknown() -> None:
    runner = Runner({}, None, nothing_decided)
    assert await _outcome(runner, a_delivery()) == Unknown()


async def test_a_body_that_does_not_fit_is_undecodable() -> None:
    delivery = a_delivery()
    odd = a_delivery(job=type(delivery.job)(id="x", task="task", body=b"garbage"))
    assert isinstance(await _outcome(_runner(), odd), Undecodable)


async def test_a_run_asked_to_end_before_it_began_does_not_begin() -> None:
    ran: list[str] = []

    async def handler(current: Current) -> None:
        ran.append(current.id)

    runner = _runner(handler)
    run, _ = runner.prepare(a_delivery())
    run.ask(Interrupted(reason="the broker did not answer"))
    assert await runner.run(run) == Interrupted(begun=False, reason="the broker did not answer")
    assert ran == []


async def test_the_first_request_names_the_outcome() -> None:
    run, _ = _runner().prepare(a_delivery())
    first: Outcome = Interrupted()
    run.ask(first)
    run.ask(Unknown())
    assert run.asked is first
    assert run.current is not None
    assert run.current.stopping


async def test_headers_that_make_no_sense_change_nothing() -> None:
    delivery = a_delivery()
    job = type(delivery.job)(id="x", task="task", body=b"{}", headers={"taskq-attempts": "many", "taskq-timeout": "-"})
    run, refused = _runner().prepare(a_delivery(job=job))
    assert (refused, run.timeouts, run.policy.retry.attempts) == (None, None, Policy().retry.attempts)


@pytest.mark.parametrize("leave", [sys.exit, KeyboardInterrupt, asyncio.CancelledError])
async def test_leaving_in_an_unusual_way_ends_the_job_and_not_the_worker(leave: type[BaseException]) -> None:
    async def handler(_: Current) -> None:
        raise leave()

    outcome = await _outcome(_runner(handler), a_delivery())
    assert isinstance(outcome, Raised)
    assert isinstance(outcome.error, RuntimeError)


async def test_a_job_after_one_that_left_in_an_unusual_way_runs(url: str) -> None:
    app = App(url, slots=1)

    @app.task(retry=Retry.never())
    async def leave() -> int:
        sys.exit(3)

    @app.task
    async def answer() -> int:
        return 42

    async with app:
        left, job = await leave.defer(), await answer.defer()
        await run_until_idle(app)
        assert await job.result() == 42
        with pytest.raises(JobFailed, match="SystemExit: 3"):
            await left.result()


async def test_a_result_that_cannot_be_encoded_fails_the_job() -> None:
    app = App("memory://", slots=1)

    @app.task(keep=60)
    async def odd():  # type: ignore[no-untyped-def]
        return object()

    async with app:
        job = await odd.defer()
        await run_until_idle(app)
        with pytest.raises(JobFailed, match="EncodeError"):
            await job.result()


async def test_a_handler_learns_of_its_job() -> None:
    from taskq import current

    app = App("memory://")

    @app.task(queue="mail", timeout=60)
    async def look() -> list[str | int | bool]:
        job = current()
        assert job.deadline is not None
        return [job.id, job.task, job.queue, job.attempt, job.losses, job.fence > 0, job.headers["origin"]]

    async with app:
        job = await look.options(headers={"origin": "test"}).defer()
        await run_until_idle(app)
        assert await job.result() == [job.id, look.name, "mail", 1, 0, True, "test"]


async def test_a_time_out_cancels_the_run(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(timeout=60, retry=Retry.never())
    async def long() -> int:
        await anyio.sleep(3600)
        return 1

    async with app, app.working():
        job = await long.defer()
        with pytest.raises(JobTimeout, match="60 s"):
            await job.result()
        assert clock.time() == pytest.approx(60)


async def test_a_call_may_bring_its_own_time_out_and_attempts(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(timeout=60)
    async def long() -> int:
        await anyio.sleep(3600)
        return 1

    async with app, app.working():
        job = await long.options(timeout=600, attempts=1).defer()
        with pytest.raises(JobTimeout):
            await job.result()
        assert clock.time() == pytest.approx(600)


async def test_a_timed_out_run_is_tried_again(clock: VirtualClock) -> None:
    app = App("memory://")
    runs: list[float] = []

    @app.task(timeout=60, retry=Retry.fixed(2, 10))
    async def slow_at_first() -> str:
        runs.append(clock.time())
        if len(runs) == 1:
            await anyio.sleep(3600)
        return "done"

    async with app, app.working():
        job = await slow_at_first.defer()
        assert await job.result() == "done"
    assert runs == pytest.approx([0, 70])


async def test_what_returns_in_spite_of_its_time_out_has_returned(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(timeout=60)
    async def stubborn() -> str:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            return "in time after all"
        return "never"

    async with app, app.working():
        job = await stubborn.defer()
        assert await job.result() == "in time after all"
        assert clock.time() == pytest.approx(60)
