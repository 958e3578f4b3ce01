"""The line on servers: what the other tests show on memory and SQLite, in one slice, on Redis and PostgreSQL."""

import asyncio
from typing import Any
from uuid import uuid4

import anyio
import asyncpg
import pytest

from taskq import App, Concurrency, current
from taskq.errors import JobCancelled
from taskq.events import SettlementRefused
from taskq.retry import Retry
from taskq.testing import deferred, run_until_idle
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey as valkey
from tests.servers.fixtures import valkey_cluster as valkey_cluster
from tests.servers.tenants import queue_on, queue_on_cluster
from tests.worker import (
    test_control,
    test_dead_caps,
    test_dead_workers,
    test_explain,
    test_history,
    test_joblog,
    test_retries,
    test_shutdown,
    test_stories,
)
from tests.worker.moves import SOON, heard, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["valkey", "valkey_cluster", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    server = request.getfixturevalue(request.param)
    return queue_on_cluster(server) if request.param == "valkey_cluster" else queue_on(server)


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> str:
    return queue_on(request.getfixturevalue("postgres"))


# Tests of other modules, with the fixtures of this one.
test_as_02 = test_dead_workers.test_as_02_a_newsletter_whose_worker_died_does_not_stay_at_sending
test_as_09 = test_stories.test_as_09_a_stop_starts_no_job_anew_that_still_runs
test_as_10 = test_dead_workers.test_as_10_a_hundred_running_jobs_of_a_dead_worker_are_not_forgotten
test_as_11 = test_dead_workers.test_as_11_a_poison_job_is_set_aside_after_three_losses_and_the_healthy_are_done
test_as_18 = test_stories.test_as_18_a_job_does_not_start_after_the_moment_its_caller_named
test_as_33 = test_stories.test_as_33_a_hundred_slots_run_a_hundred_jobs_at_once
test_roused = test_shutdown.test_a_fetch_that_waits_is_roused_by_a_drain_and_by_quiet
test_dead_letter = test_retries.test_a_failed_job_is_a_dead_letter_with_its_error_and_can_be_revived
test_poison = test_retries.test_a_job_whose_workers_died_three_times_is_quarantined
test_groups = test_retries.test_groups_run_in_order_through_two_workers
test_cancel = test_control.test_a_queued_job_that_is_cancelled_never_runs
test_d7 = test_dead_caps.test_of_too_many_dead_letters_the_oldest_are_dropped_and_told_of


async def test_results_reach_their_callers(url: str) -> None:
    app = App(url, slots=5)

    @app.task
    async def double(n: int) -> dict[str, int]:
        return {"double": 2 * n}

    async with app, app.working():
        jobs = await asyncio.gather(*(double.defer(n) for n in range(50)))
        assert [await job.result(SOON) for job in jobs] == [{"double": 2 * n} for n in range(50)]
        assert {await job.status() for job in jobs} == {"returned"}


async def test_a_job_says_why_it_does_not_run(url: str) -> None:
    app = App(url)

    @app.task(limits=Concurrency(1), retry=Retry.fixed(2, 3600.0))
    async def fail() -> None:
        raise ValueError("no ink")

    async with app:
        holder = await fail.defer()
        await run_until_idle(app)
        waiting, behind = await fail.defer(), await fail.options(priority=-1).defer()
        assert (await test_explain.why(app, holder.id))["error"].text == "attempt 1 failed: ValueError: no ink"
        assert (await test_explain.why(app, waiting.id))["holder"].text.startswith(holder.id)
        assert (await test_explain.why(app, behind.id)).keys() == {"group", "holder", "no_worker", "behind"}


async def test_what_a_job_says_is_kept(url: str) -> None:
    app = App(url, capture=10_000)

    @app.task(retry=Retry.fixed(2, 0.0))
    async def fail() -> None:
        current().logger.warning("attempt %d", current().attempt)
        raise ValueError

    async with app:
        job = await fail.defer()
        await run_until_idle(app, until="empty")
        assert await test_joblog.texts(app, job.ref) == [(n, "warning", f"attempt {n}") for n in (1, 2)]


async def test_what_became_of_jobs_is_counted(url: str) -> None:
    app = App(url, history=3600)

    @app.task(retry=Retry.fixed(2, 0.0))
    async def even(n: int) -> None:
        if n % 2:
            raise ValueError

    async with app:
        for n in range(4):
            await even.defer(n)
        for _ in range(2):
            await run_until_idle(app, until="empty")
        assert await test_history.ends(app) == {"returned": 2, "again": 2, "failed": 2}


async def test_a_result_is_awaited_over_another_connection_than_it_was_deferred_by(url: str) -> None:
    app, other = App(url), App(url)
    gate = anyio.Event()

    @app.task(name="answer")
    async def answer() -> int:
        await gate.wait()
        return 42

    @other.task(name="answer")
    async def same() -> int:
        raise AssertionError("this app has no worker")

    async with app, other, app.working(), anyio.create_task_group() as group:
        # It is added under an id of the caller's choice, so that both apps hold a handle of it.
        await answer.options(id="answer-1").defer()
        handle = await same.options(id="answer-1").defer()
        assert not handle.added

        async def ask() -> None:
            assert await handle.result(SOON) == 42

        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        gate.set()


async def test_a_job_that_fails_runs_again_until_it_returns(url: str) -> None:
    app = App(url)

    @app.task(retry=Retry.fixed(3, 0.01))
    async def third_time_lucky() -> int:
        if current().attempt < 3:
            raise ConnectionError("not yet")
        return current().attempt

    async with app, app.working():
        assert await (await third_time_lucky.defer()).result(SOON) == 3


async def test_a_running_job_is_cancelled_by_a_hint_from_another_connection(url: str) -> None:
    # The lease is so long that nothing but the hint can have brought the news.
    app, other = App(url, lease=3600), App(url)
    started: list[str] = []
    cleaned: list[str] = []

    @app.task
    async def long() -> int:
        started.append(current().id)
        try:
            await anyio.sleep(SOON * 2)
        finally:
            cleaned.append(current().id)
        return 1

    async with app, other, app.working():
        first, job = await long.defer(), await long.defer()
        await wait_until(lambda: len(started) == 2)
        with anyio.fail_after(SOON):
            # The worker may begin to listen later than to work.
            while first.id not in cleaned:
                await other.cancel(first.ref)
                await anyio.sleep(0.01)
        assert await other.cancel(job.ref)
        with pytest.raises(JobCancelled):
            await job.result(SOON)
    assert cleaned == [first.id, job.id]


async def test_one_live_job_holds_a_unique_key(url: str) -> None:
    app = App(url)

    @app.task(unique=True)
    async def rebuild(index: str) -> str:
        return index

    async with app:
        jobs = await asyncio.gather(*(rebuild.defer("a") for _ in range(20)))
        await rebuild.defer("b")
        assert sum(job.added for job in jobs) == 1
        assert len({job.id for job in jobs}) == 1
        worked = await run_until_idle(app, raise_failures=True)
        assert len(worked.finished) == 2
        again = await rebuild.defer("a")
        assert again.added
        assert again.id != jobs[0].id


async def test_a_paused_queue_rests_until_it_is_resumed(url: str) -> None:
    app, other = App(url, queues=("default", "other")), App(url)

    @app.task
    async def name(it: str) -> str:
        return it

    async with app, other:
        await other.pause("default")
        async with app.working():
            resting = await name.defer("resting")
            going = await name.options(queue="other").defer("going")
            assert await going.result(SOON) == "going"
            assert await resting.status() == "ready"
            await other.resume("default")
            assert await resting.result(SOON) == "resting"


async def test_members_on_two_queues_leave_their_parts_of_a_batch_and_are_settled(url: str) -> None:
    app, numbers = App(url, slots=300, queues=("default", "other")), range(1500)
    refused = heard(app, SettlementRefused)

    @app.task(retry=1)
    async def nothing(n: int) -> None:
        if n == 7:
            raise ValueError

    async with app:
        async with app.batch("b") as batch:
            await batch.add(nothing.options(queue="other" if n % 3 else "default").call(n) for n in numbers)
        with anyio.fail_after(60):
            await app.run_worker(until="idle")
        status = await batch.status()
        assert status is not None
        assert (status.total, status.pending, status.failed, status.over is None) == (1500, 0, 1, False)
        assert [queue for queue in await app.admin.stats() if queue.ready or queue.leased] == []
    assert refused == []


async def test_many_jobs_are_deferred_in_parts(url: str) -> None:
    app = App(url, slots=200)

    @app.task
    async def note(n: int) -> int:
        return n

    async with app:
        handles = await app.defer_many(note.call(n) for n in range(2500))
        assert len({handle.id for handle in handles}) == 2500
        (stats,) = await app.admin.stats(["default"])
        assert stats.ready == 2500
        worked = await run_until_idle(app, raise_failures=True)
        assert len(worked.finished) == 2500
        assert [await handles[n].result(0) for n in (0, 999, 1000, 2499)] == [0, 999, 1000, 2499]


async def test_a_worker_until_idle_leaves_what_is_scheduled(url: str) -> None:
    app = App(url)
    ran: list[str] = []

    @app.task
    async def note(name: str) -> None:
        ran.append(name)
        if name == "first":
            await note.defer("second")

    async with app:
        await note.defer("first")
        await note.options(delay=3600).defer("tomorrow")
        with anyio.fail_after(SOON):
            await app.run_worker(until="idle")
        assert [job.arguments for job in await deferred(app)] == [{"name": "tomorrow"}]
    assert ran == ["first", "second"]


async def test_a_handlers_writes_defers_and_ack_commit_together_or_not_at_all(postgres_url: str) -> None:
    app = App(postgres_url)
    table = f"accounts_{uuid4().hex[:12]}"

    @app.task
    async def receipt(attempt: int) -> None: ...

    @app.task(transaction=True, retry=Retry.fixed(2, 0))
    async def grant() -> int:
        await current().connection.execute(f"UPDATE {table} SET credit = credit + 10")  # noqa: S608  # a table's name
        await receipt.options(queue="receipts").defer(current().attempt)
        if current().attempt == 1:
            raise ConnectionError("after the write")
        return current().attempt

    async with app:
        assert app.backend.transactions is not None
        async with app.backend.transactions.begin() as connection:
            await connection.execute(f"CREATE TABLE {table} AS SELECT 0 AS credit")
        job = await grant.defer()
        await run_until_idle(app)
        assert await job.result(0) == 2
        assert [job.arguments for job in await deferred(app)] == [{"attempt": 2}]
        async with app.backend.transactions.begin() as connection:
            assert await connection.fetchval(f"SELECT credit FROM {table}") == 10  # noqa: S608  # as above
            await connection.execute(f"DROP TABLE {table}")


async def test_a_defer_takes_part_in_a_transaction_of_the_callers_own_connection(
    postgres_url: str, request: pytest.FixtureRequest
) -> None:
    app = App(postgres_url)

    @app.task
    async def note(n: int) -> int:
        return n

    server: Any = request.getfixturevalue("postgres")
    async with app:
        connection = await asyncpg.connect(server.url)
        transaction = connection.transaction()
        await transaction.start()
        inside = note.options(tx=connection)
        await app.defer_many(inside.call(n) for n in range(10))
        assert await deferred(app) == []
        await transaction.commit()
        await connection.close()
        assert len(await deferred(app)) == 10
