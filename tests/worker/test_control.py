"""Control: what operators ask of workers reaches them within a second: by hints, and without them by looking."""

import asyncio

import anyio
import pytest
from msgspec.structs import replace

from taskq import App
from taskq.errors import JobCancelled
from taskq.testing import VirtualClock
from taskq.worker.control import AGAIN, POLL, Control, paused_queues
from tests.worker.moves import SOON

pytestmark = pytest.mark.anyio


async def test_a_paused_queue_rests_until_it_is_resumed(url: str) -> None:
    app = App(url, queues=("default", "other"))
    ran: list[str] = []

    @app.task
    async def note(name: str) -> str:
        ran.append(name)
        return name

    async with app:
        await app.pause("default")
        async with app.working():
            resting = await note.defer("resting")
            going = await note.options(queue="other").defer("going")
            assert await going.result(SOON) == "going"
            assert await resting.status() == "ready"
            await app.resume("default")
            assert await resting.result(SOON) == "resting"
    assert ran == ["going", "resting"]


async def test_a_pause_reaches_a_worker_that_runs(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task
    async def answer() -> int:
        return 42

    @app.task(queue="other")
    async def other() -> int:
        return 43

    async with app, app.working():
        assert await (await answer.defer()).result() == 42
        await app.pause("default")
        await clock.advance(1)
        resting, going = await answer.defer(), await other.defer()
        assert await going.result() == 43
        await clock.advance(minutes=10)
        assert await resting.status() == "ready"
        await app.resume("default")
        await clock.advance(1)
        assert await resting.result(0) == 42


async def test_a_paused_task_or_tenant_rests_while_its_queue_goes_on(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(name="mail.send")
    async def send() -> int:
        return 42

    @app.task
    async def other() -> int:
        return 43

    async with app, app.working():
        await app.pause(tasks=["mail.send"], tenants=["acme"])
        await clock.advance(1)
        mail, theirs, ours = await send.defer(), await other.options(tenant="acme").defer(), await other.defer()
        assert await ours.result() == 43
        await clock.advance(minutes=10)
        assert [await mail.status(), await theirs.status()] == ["later", "later"]
        told = {reason.kind: reason.remedy for reason in (await app.explain(mail.id, mail.queue)).reasons}
        assert told["paused"] == "taskq resume --task mail.send"
        await app.resume(tasks=["mail.send"])
        await clock.advance(AGAIN + 1)
        assert await mail.result(0) == 42
        assert await theirs.status() == "later"
        await app.resume(tenants=["acme"])
        await clock.advance(AGAIN + 1)
        assert await theirs.result(0) == 43
        record = await app.admin.stats(["default"])
        assert [stats.dead for stats in record] == [0]


async def test_a_paused_tag_rests_wherever_its_jobs_are_until_its_time_is_over(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(tags="bulk")
    async def report() -> int:
        return 42

    @app.task
    async def other() -> int:
        return 43

    async with app, app.working():
        await app.pause(tags=["bulk"], seconds=600)
        await clock.advance(1)
        theirs, tagged = await report.options(tags=["eu"]).defer(), await other.options(tags=["eu", "bulk"]).defer()
        assert await (await other.options(tags=["eu"]).defer()).result() == 43
        told = {reason.kind: reason.remedy for reason in (await app.explain(theirs.id, theirs.queue)).reasons}
        assert told["paused"] == "taskq resume --tag bulk"
        await clock.advance(598)
        assert [await theirs.status(), await tagged.status()] == ["later", "later"]
        await clock.advance(1 + POLL + AGAIN)
        assert [await theirs.result(0), await tagged.result(0)] == [42, 43]


async def test_a_pause_of_so_many_seconds_ends_by_itself(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task
    async def answer() -> int:
        return 42

    async with app, app.working():
        await app.pause("default", seconds=600)
        await clock.advance(1)
        job = await answer.defer()
        await clock.advance(598)
        assert await job.status() == "ready"
        await clock.advance(2)
        assert await job.status() == "returned"


async def test_what_is_paused_is_seen_by_all_and_only_while_it_lasts(url: str) -> None:
    app = App(url)
    async with app:
        await asyncio.gather(app.pause("a"), app.pause("b", "c"), app.pause("d", seconds=0))
        assert set(await paused_queues(app.store)) == {"a", "b", "c"}
        await app.resume("a", "c")
        assert await paused_queues(app.store) == {"b": None}
        await app.resume("b")
        assert await paused_queues(app.store) == {}


async def test_what_was_cancelled_before_anybody_listened_is_looked_for() -> None:
    looked = anyio.Event()

    async def look() -> None:
        looked.set()

    async with App("memory://") as app:
        control = Control(app.backend, cancel=look, changed=lambda: None, holds=lambda _: False, poll=3600.0)
        async with anyio.create_task_group() as group:
            group.start_soon(control.run)
            with anyio.fail_after(SOON):
                await looked.wait()
            group.cancel_scope.cancel()


async def test_without_hints_a_look_a_second_does_it(clock: VirtualClock) -> None:
    app = App("memory://")
    changes: list[float] = []

    async def nothing() -> None: ...

    async with app:
        control = Control(
            replace(app.backend, hints=None),
            cancel=nothing,
            changed=lambda: changes.append(clock.time()),
            holds=lambda _: False,
            poll=1.0,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(control.run)
            await clock.advance(10.5)
            await app.pause("default")
            await clock.advance(1)
            assert list(control.paused) == ["default"]
            assert len(changes) == 1
            group.cancel_scope.cancel()


async def test_a_queued_job_that_is_cancelled_never_runs(url: str) -> None:
    app = App(url)
    ran: list[int] = []

    @app.task(delay=3600)
    async def note() -> int:
        ran.append(1)
        return 1

    async with app, app.working():
        job = await note.defer()
        assert await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result(SOON)
        assert await job.status() == "cancelled"
        assert not await job.cancel()
    assert ran == []


async def test_a_running_job_is_cancelled_by_a_hint(url: str) -> None:
    # The lease is so long that nothing but the hint can have brought the news.
    app = App(url, lease=3600)
    started = anyio.Event()
    cleaned: list[str] = []

    @app.task
    async def long() -> int:
        started.set()
        try:
            await anyio.sleep(SOON * 2)
        finally:
            cleaned.append("up")
        return 1

    async with app, app.working():
        job = await long.defer()
        await started.wait()
        assert await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result(SOON)
    assert cleaned == ["up"]


async def test_a_running_job_is_cancelled_within_a_second(clock: VirtualClock) -> None:
    app = App("memory://", lease=3600)

    @app.task
    async def long() -> int:
        await anyio.sleep(3600)
        return 1

    async with app, app.working():
        job = await long.defer()
        await clock.advance(60)
        await job.cancel()
        await clock.advance(1)
        assert await job.status() == "cancelled"


async def test_a_run_that_returns_in_spite_of_being_cancelled_has_returned(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task
    async def stubborn() -> str:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            return "done all the same"
        return "never"

    async with app, app.working():
        job = await stubborn.defer()
        await clock.advance(1)
        await job.cancel()
        assert await job.result() == "done all the same"
