"""Retries, signals and results: what a run comes to, over days of virtual time."""

from datetime import timedelta

import anyio
import pytest

from taskq import App, Discard, Retry, RetryIn, Snooze
from taskq.broker import Record
from taskq.errors import (
    JobDiscarded,
    JobExpired,
    JobFailed,
    JobLost,
    ResultNotKept,
    ResultNotReady,
)
from taskq.events import JobAgain, JobFinished
from taskq.testing import VirtualClock, run_until_idle
from tests.worker.moves import SOON, heard, lose

pytestmark = pytest.mark.anyio


async def test_a_result_reaches_its_caller(url: str) -> None:
    app = App(url)

    @app.task
    async def add(a: int, *, b: int = 1) -> dict[str, int]:
        return {"sum": a + b}

    async with app, app.working():
        job = await add.defer(1, b=2)
        assert await job.result(SOON) == {"sum": 3}
        assert await job.status() == "returned"


async def test_a_result_that_is_late_or_not_kept_is_told_apart(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task
    async def slow() -> int:
        await anyio.sleep(60)
        return 1

    @app.task
    async def nothing() -> None: ...

    async with app, app.working():
        job = await slow.defer()
        with pytest.raises(ResultNotReady):
            await job.result(59)
        assert clock.time() == pytest.approx(59)
        assert await job.result(2) == 1
        with pytest.raises(ResultNotKept):
            await (await nothing.defer()).result()


async def test_a_job_runs_again_along_its_curve_until_it_returns(clock: VirtualClock) -> None:
    app = App("memory://")
    runs: list[float] = []

    @app.task(retry=Retry.delayed_job())
    async def third_time_lucky() -> str:
        runs.append(clock.time())
        if len(runs) < 4:
            raise ValueError("not yet")
        return "done"

    async with app, app.working():
        job = await third_time_lucky.defer()
        assert await job.result() == "done"
    # delayed_job waits 5 + n⁴ seconds.
    assert runs == pytest.approx([0, 6, 6 + 21, 6 + 21 + 86])


async def test_the_default_curve_ends_within_half_a_day(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task
    async def fail() -> int:
        raise ValueError("never")

    async with app:
        job = await fail.defer()
        worked = await run_until_idle(app, until="empty")
        assert len(worked.failures) == 15
        assert clock.time() < 12 * 3600
        outcome = await job.outcome()
        assert (outcome.end, len(outcome.errors)) == ("failed", 10)
        assert [error.attempt for error in outcome.errors] == list(range(6, 16))
        assert outcome.errors[0].traceback == ""
        assert "never" in outcome.errors[-1].traceback


async def test_a_failed_job_is_a_dead_letter_with_its_error_and_can_be_revived(url: str) -> None:
    app = App(url)
    broken = True

    @app.task(retry=Retry.never())
    async def fragile() -> str:
        if broken:
            raise ZeroDivisionError("by the test")
        return "mended"

    async with app:
        job = await fragile.defer()
        await run_until_idle(app)
        with pytest.raises(JobFailed, match="ZeroDivisionError: by the test"):
            await job.result(0)
        assert await job.status() == "failed"
        broken = False
        assert await app.admin.revive([job.ref]) == ["revived"]
        await run_until_idle(app)
        assert await job.result(0) == "mended"


async def test_an_error_that_is_not_worth_it_is_not_tried_again(url: str) -> None:
    app = App(url)

    @app.task(retry=Retry(5, on=(ConnectionError,), discard_on=(LookupError,)))
    async def fail(kind: str) -> int:
        raise {"value": ValueError, "key": KeyError}[kind](kind)

    async with app:
        dead, gone = await fail.defer("value"), await fail.defer("key")
        worked = await run_until_idle(app)
        assert {event.attempt for event in worked.finished} == {1}
        with pytest.raises(JobFailed):
            await dead.result(0)
        with pytest.raises(JobDiscarded, match="KeyError"):
            await gone.result(0)


async def test_retry_in_comes_at_its_moment_and_counts(clock: VirtualClock) -> None:
    app = App("memory://")
    runs: list[float] = []

    @app.task(retry=Retry(3))
    async def later() -> int:
        runs.append(clock.time())
        raise RetryIn(timedelta(hours=1), "busy")

    async with app:
        job = await later.defer()
        await run_until_idle(app, until="empty")
        assert runs == pytest.approx([0, 3600, 7200])
        with pytest.raises(JobFailed, match="busy"):
            await job.result(0)


async def test_snooze_comes_at_its_moment_and_does_not_count(clock: VirtualClock) -> None:
    app = App("memory://")
    again = heard(app, JobAgain)
    runs: list[float] = []

    @app.task(retry=Retry.never())
    async def later() -> str:
        runs.append(clock.time())
        if len(runs) <= 5:
            raise Snooze(timedelta(days=1))
        return "at last"

    async with app:
        job = await later.defer()
        await run_until_idle(app, until="empty")
        assert await job.result(0) == "at last"
    assert runs == pytest.approx([day * 86_400 for day in range(6)])
    assert {(event.attempt, event.counted) for event in again} == {(1, False)}


async def test_discard_ends_a_job_without_dead_letter(url: str) -> None:
    app = App(url)

    @app.task
    async def pointless() -> int:
        raise Discard("nobody wants it")

    async with app:
        job = await pointless.defer()
        await run_until_idle(app)
        with pytest.raises(JobDiscarded, match="nobody wants it"):
            await job.result(0)
        assert await app.lookup(job.ref) is None


async def test_a_task_that_runs_at_most_once_is_not_tried_again(url: str) -> None:
    app = App(url)
    runs: list[int] = []

    @app.task(delivery="at_most_once")
    async def charge() -> int:
        runs.append(1)
        raise ConnectionError("perhaps charged")

    async with app:
        job = await charge.defer()
        await run_until_idle(app)
        with pytest.raises(JobFailed, match="perhaps charged"):
            await job.result(0)
    assert len(runs) == 1


async def test_a_job_that_runs_at_most_once_is_lost_visibly_with_its_worker() -> None:
    app = App("memory://")
    runs: list[int] = []

    @app.task(delivery="at_most_once")
    async def charge() -> int:
        runs.append(1)
        return 1

    async with app:
        job = await charge.defer()
        await lose(app, 1)
        await run_until_idle(app)
        with pytest.raises(JobLost):
            await job.result(0)
    assert runs == []


async def test_a_job_whose_workers_died_three_times_is_quarantined(url: str) -> None:
    app = App(url)
    runs: list[int] = []

    @app.task
    async def poison() -> int:
        runs.append(1)
        return 1

    async with app:
        job = await poison.defer()
        await lose(app, 3)
        await run_until_idle(app)
        with pytest.raises(JobFailed, match="quarantined"):
            await job.result(0)
    assert runs == []


async def test_a_loss_is_not_an_attempt() -> None:
    app = App("memory://")

    @app.task(retry=Retry.never())
    async def survivor() -> str:
        return "done"

    async with app:
        job = await survivor.defer()
        await lose(app, 2)
        await run_until_idle(app)
        assert await job.result(0) == "done"


async def test_an_unknown_task_is_parked_ever_longer_and_dead_after_a_day(clock: VirtualClock) -> None:
    app, old = App("memory://"), App("memory://")
    again, finished = heard(app, JobAgain), heard(app, JobFinished)

    @old.task(name="of_a_newer_deploy")
    async def newer() -> int:
        return 1

    async with app:
        await app.backend.broker.enqueue([newer.call().job])
        await run_until_idle(app, until="empty")
        assert 86_400 <= clock.time() <= 86_400 + 60
        (record,) = await app.admin.list_jobs("default", "dead", after=None, limit=10)
        assert b"of_a_newer_deploy" in _outcome(record)
    delays = [event.after for event in again]
    assert delays[:4] == [1, 2, 4, 8]
    assert delays == sorted(delays)
    assert max(delays) == 60
    assert not any(event.counted for event in again)
    assert [event.end for event in finished] == ["failed"]


async def test_a_job_parked_as_unknown_runs_once_its_task_is_known(clock: VirtualClock) -> None:
    app = App("memory://")
    newer = App("memory://")

    @newer.task(name="soon_known")
    async def soon_known() -> int:
        return 42

    async with app:
        (job,) = await app.backend.broker.enqueue([soon_known.call().job])
        async with app.working():
            await clock.advance(hours=1)

        @app.task(name="soon_known")
        async def known() -> int:
            return 43

        async with app.working():
            await clock.advance(minutes=10)
        assert (await app.admin.find(job.id)) is None


async def test_a_body_that_does_not_decode_is_set_aside_at_once(url: str) -> None:
    app, other = App(url), App("memory://")

    @app.task(name="typed")
    async def typed(n: int) -> int:
        return n

    @other.task(name="typed")
    async def differently_typed(n: str) -> int:
        return len(n)

    async with app:
        await app.backend.broker.enqueue([differently_typed.call("three").job])
        good = await typed.defer(3)
        await run_until_idle(app)
        assert await good.result(0) == 3
        (record,) = await app.admin.list_jobs("default", "dead", after=None, limit=10)
        assert b"DecodeError" in _outcome(record)


def _outcome(record: Record) -> bytes:
    assert record.outcome is not None
    return record.outcome


async def test_an_expired_job_does_not_run(clock: VirtualClock) -> None:
    app = App("memory://")
    finished = heard(app, JobFinished)
    ran: list[str] = []

    @app.task(expires_in=timedelta(minutes=30))
    async def soon(name: str) -> str:
        ran.append(name)
        return name

    async with app:
        late = await soon.defer("late")
        later = await soon.options(delay=timedelta(hours=2)).defer("later")
        await clock.advance(minutes=31)
        await run_until_idle(app)
        with pytest.raises(JobExpired):
            await late.result(0)
        # Its half hour begins when it is due.
        await clock.advance(hours=2, minutes=-2)
        await run_until_idle(app)
        assert await later.result(0) == "later"
    assert ran == ["later"]
    assert [event.end for event in finished] == ["expired", "returned"]


async def test_groups_run_in_order_through_two_workers(url: str) -> None:
    app = App(url, slots=10)
    seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    running: set[str] = set()

    @app.task(group=("account",))
    async def book(account: str, n: int) -> int:
        assert account not in running
        running.add(account)
        await anyio.sleep(0.001)
        running.discard(account)
        seen[account].append(n)
        return n

    async with app, app.working(), app.working():
        jobs = await app.defer_many(book.call(account, n) for n in range(10) for account in seen)
        assert [await job.result(SOON) for job in jobs] == [n for n in range(10) for _ in seen]
    assert all(order == list(range(10)) for order in seen.values())


async def test_a_group_waits_for_its_first_job_to_be_tried_again(clock: VirtualClock) -> None:
    app = App("memory://", slots=10)
    seen: list[tuple[int, int]] = []

    @app.task(group="one line", retry=Retry.fixed(2, 60))
    async def book(n: int) -> None:
        seen.append((n, round(clock.time())))
        if len(seen) == 1:
            raise ValueError("again")

    async with app:
        for n in range(3):
            await book.defer(n)
        await run_until_idle(app, until="empty")
    assert seen == [(0, 0), (0, 60), (1, 60), (2, 60)]
