"""``app.explain``: why a job does not run, or ran twice, from what is recorded."""

from collections.abc import Callable, Iterable, Mapping

import anyio
import msgspec
import pytest

from taskq import App, Concurrency, RateLimit, Snooze
from taskq.events import JobFinished
from taskq.explain import Explanation, Reason
from taskq.job import Job, JobRef
from taskq.retry import Retry
from taskq.testing import run_until_idle
from taskq.worker import presence, register
from taskq.worker.register import workers
from tests.worker.moves import SOON, heard, lose

pytestmark = pytest.mark.anyio

LATER = Retry.fixed(2, 3600.0)


def flat(reasons: Iterable[Reason]) -> Mapping[str, Reason]:
    """Every reason of a tree, by its kind."""
    return {found.kind: found for reason in reasons for found in (reason, *flat(reason.because).values())}


async def why(app: App, id: str, queue: str | None = None) -> Mapping[str, Reason]:
    return flat((await app.explain(id, queue)).reasons)


async def until(app: App, id: str, check: Callable[[Mapping[str, Reason]], object]) -> Mapping[str, Reason]:
    """What is told once that is so: a worker tells of itself a moment after what it does."""
    with anyio.fail_after(SOON):
        while not check(found := await why(app, id)):
            pass
    return found


async def test_whoever_looks_at_workers_waits_for_them_and_not_for_a_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (presence, register):
        monkeypatch.setattr(module, "PATIENCE", 100 * SOON)
    app, begun, gate = App(url), anyio.Event(), anyio.Event()

    @app.task
    async def wait() -> None:
        begun.set()
        await gate.wait()

    with anyio.fail_after(SOON):
        async with app, app.working(), app.working():
            while len(await workers(app.store, app.backend.hints)) < 2:
                pass
            job = await wait.defer()
            await begun.wait()
            found = await workers(app.store, app.backend.hints)
            assert [run.id for entry in found for run in entry.jobs] == [job.id]
            gate.set()


async def test_a_job_that_waits_says_what_it_waits_for(url: str) -> None:
    app = App(url)

    @app.task(queue="mail")
    async def send() -> None: ...

    async with app:
        first, second = await send.defer(), await send.options(delay=3600).defer()
        urgent = await send.options(priority=9).defer()
        await app.pause("mail")

        found = await why(app, first.id)
        assert found.keys() == {"paused", "no_worker", "behind"}
        assert found["paused"].remedy == "taskq resume mail"
        assert found["no_worker"].remedy == "taskq worker MODULE:app --queues mail"
        assert found["behind"].text == "it is behind 1 of the 2 jobs that are ready in its queue"
        assert "behind" not in await why(app, urgent.id)

        found = await why(app, second.id, "mail")
        assert found.keys() == {"not_due", "paused", "no_worker"}
        record = await app.lookup(second.ref)
        assert record is not None
        assert found["not_due"].at == record.due


async def test_a_job_says_who_has_the_slots_and_who_runs_it(url: str) -> None:
    app, gate = App(url, slots=1), anyio.Event()

    @app.task
    async def block() -> None:
        await gate.wait()

    async with app, app.working():
        running, waiting = await block.defer(), await block.defer()
        found = await until(app, running.id, lambda found: "running" in found)
        assert found["running"].text.endswith("runs it; leased until")
        found = await until(app, waiting.id, lambda found: {"slots", "holder"} <= found.keys() or "leased" in found)
        # What a worker has fetched ahead waits in its hands.
        assert running.id in found["holder"].text if "slots" in found else found["leased"].at
        gate.set()


async def test_slots_of_another_pool_are_none_for_a_job() -> None:
    app, gate = (
        App("memory://", pools={"slow": {"queues": ["slow"], "slots": 1}, "rest": {"queues": ["default"], "slots": 1}}),
        anyio.Event(),
    )

    @app.task(queue="slow")
    async def block() -> None:
        await gate.wait()

    async with app, app.working():
        running, *waiting = [await block.defer() for _ in range(5)]
        last = waiting[-1].id
        found = await until(app, last, lambda found: {"slots", "holder"} <= found.keys())
        assert found["slots"].text == "of the slots for queue slow none is free: 1 are taken"
        assert found["holder"].text.startswith(running.id)
        gate.set()


async def test_a_job_that_no_worker_can_run_says_so(url: str) -> None:
    app = App(url)

    @app.task(name="known", queue="mail", version=2, upcast=lambda _version, arguments: arguments)
    async def known() -> None: ...

    def job(id: str, **more: object) -> Job:
        return msgspec.convert({"id": id, "task": "known", "body": b"", "queue": "mail", "delay": 3600.0, **more}, Job)

    async with app, app.working() as worker:
        newer = job("newer", headers={"taskq-version": "3"})
        await app.backend.broker.enqueue([newer, job("foreign", task="foreign"), job("elsewhere", queue="none")])
        assert "no_worker" not in await until(app, "newer", lambda found: "version" in found)
        assert "taskq cancel foreign" in (await why(app, "foreign"))["unknown_task"].remedy
        assert "they serve default, mail" in (await why(app, "elsewhere"))["no_worker"].text
        worker.quiet(True)
        ready = await known.defer()
        assert (await until(app, ready.id, lambda found: "quiet" in found))["quiet"].remedy.startswith(
            "taskq workers ask"
        )


async def test_a_job_whose_group_is_full_names_who_holds_it(url: str) -> None:
    app = App(url)

    @app.task(limits=Concurrency(1), retry=LATER)
    async def fail() -> None:
        raise ValueError

    async with app:
        holder = await fail.defer()
        await run_until_idle(app)
        waiting = await fail.defer()
        found = await why(app, waiting.id)
        assert found["group"].text.endswith("is full: 1 of 1 places are taken")
        assert found["holder"].text.startswith(holder.id)


async def test_a_job_that_comes_again_says_why_it_ran_before(url: str) -> None:
    app = App(url)

    @app.task(retry=LATER)
    async def run(how: str) -> None:
        raise ValueError("no ink") if how == "fail" else Snooze(3600, "no paper")

    @app.task(limits=RateLimit(1, per=3600))
    async def rare() -> None: ...

    async with app:
        failed, snoozed = await run.options(priority=9).defer("fail"), await run.defer("snooze")
        await lose(app, 2)
        refused = [await rare.defer(), await rare.defer()][1]
        await run_until_idle(app)
        found = await why(app, failed.id)
        assert found["retry"].text == "attempt 2 begins"
        assert found["error"].text == "attempt 1 failed: ValueError: no ink"
        assert found["lost"].text.startswith("2 times its lease ended unsettled")
        found = await why(app, snoozed.id)
        assert found["put_off"].text == "it was put off (no paper) until"
        assert found["uncounted"].text == "attempt 1 did not count: no paper"
        assert "limit:" in (await why(app, refused.id))["limit"].text


async def test_a_job_that_was_cut_off_by_a_deploy_says_so(url: str) -> None:
    app, begun = App(url), anyio.Event()

    @app.task
    async def long() -> None:
        begun.set()
        await anyio.sleep_forever()

    async with app:
        job = await long.defer()
        async with app.working(grace=0.0):
            with anyio.fail_after(SOON):
                await begun.wait()
        found = await why(app, job.id)
        assert found["uncounted"].text == "attempt 1 did not count: the worker is shutting down"


async def test_a_suspect_a_cancelled_and_an_expired_job_say_that_they_are(url: str) -> None:
    app = App(url)

    @app.task
    async def nothing() -> None: ...

    async with app:
        suspect = await nothing.options(priority=9, expires_in=0.0).defer()
        await lose(app, 3)
        await suspect.cancel()
        assert {"suspect", "cancelled", "expired", "lost"} <= (await why(app, suspect.id)).keys()


async def test_a_dead_job_says_why_and_how_it_is_revived_and_a_gone_one_how_it_ended(url: str) -> None:
    app = App(url)

    @app.task(retry=Retry.never())
    async def half(n: int) -> float:
        return 1 / n

    async with app:
        dead, gone = await half.defer(0), await half.defer(2)
        await run_until_idle(app)
        found = await why(app, dead.id)
        assert found["dead"].text == "it was set aside, failed: ZeroDivisionError: division by zero"
        assert found["dead"].remedy == f"taskq dead revive {dead.id}"
        assert (await why(app, gone.id, "default"))["ended"].text == "it has ended: returned"
        assert (await app.explain(gone.id)).state == "unknown"


async def test_a_job_that_follows_others_says_what_they_wait_for(url: str) -> None:
    app = App(url)

    @app.task(queue="mail")
    async def step() -> None: ...

    async with app:
        flow = await app.defer(step.call().then(step.call()).then(step.call()))
        found = await app.explain(flow.id)
        assert found.state == "awaited"
        assert flat(found.reasons).keys() == {"follows", "no_worker"}
        async with app.batch("import", then=step.call()) as batch:
            await batch.add([step.call(), step.call()])
        text = (await why(app, "import.succeeded"))["batch"].text
        assert text == "batch import has 2 of 2 members left, 0 failed"
        assert (await app.explain("never.1")).state == "unknown"


async def test_looking_changes_nothing(url: str) -> None:
    app = App(url)

    @app.task
    async def nothing() -> None: ...

    async with app:
        job = await nothing.defer()
        before = await app.lookup(job.ref)
        assert isinstance(await app.explain(job.id), Explanation)
        assert await app.lookup(job.ref) == before
        ended = heard(app, JobFinished)
        await run_until_idle(app)
        assert [event.end for event in ended] == ["returned"]
        assert await app.lookup(JobRef("default", job.id)) is None
