"""Time-outs: one timer for all, each run asked in its time; to stop, to end, or to give a sign of life."""

import asyncio

import pytest

from taskq import App, Retry, current
from taskq.context import Current
from taskq.errors import JobTimeout
from taskq.events import JobAgain
from taskq.means import Means
from taskq.outcome import Raised
from taskq.testing import VirtualClock, run_until_idle
from taskq.timeouts import Timeouts
from taskq.worker.deadlines import STOOD_STILL, Deadlines
from taskq.worker.run import Run
from tests.worker.moves import a_delivery, heard

pytestmark = pytest.mark.anyio


def _run(name: str, **timeouts: float) -> Run:
    delivery = a_delivery(name)
    run = Run(delivery)
    run.timeouts, run.started = Timeouts(**timeouts), asyncio.get_running_loop().time()
    run.current = Current(delivery, ((), {}), Means(loop=asyncio.get_running_loop()))
    return run


def _asked(runs: list[Run]) -> list[str]:
    return [run.delivery.job.id for run in runs if isinstance(run.asked, Raised)]


async def test_each_run_is_asked_at_its_own_deadline(clock: VirtualClock) -> None:
    runs = [_run("late", run=300), _run("early", run=10), _run("middle", run=60), _run("never")]
    deadlines = Deadlines(runs)
    for run in runs:
        deadlines.watch(run)
    await clock.advance(9)
    assert _asked(runs) == []
    await clock.advance(1)
    assert _asked(runs) == ["early"]
    await clock.advance(50)
    assert _asked(runs) == ["early", "middle"]
    await clock.advance(240)
    assert _asked(runs) == ["late", "early", "middle"]


async def test_an_earlier_deadline_moves_the_timer(clock: VirtualClock) -> None:
    runs = [_run("late", run=300)]
    deadlines = Deadlines(runs)
    deadlines.watch(runs[0])
    await clock.advance(5)
    runs.append(_run("early", run=5))
    deadlines.watch(runs[1])
    await clock.advance(5)
    assert _asked(runs) == ["early"]


async def test_a_run_that_has_ended_is_not_asked(clock: VirtualClock) -> None:
    runs = [_run("ended", run=10), _run("running", run=20)]
    ended, _ = runs
    deadlines = Deadlines(runs)
    for run in runs:
        deadlines.watch(run)
    del runs[0]
    await clock.advance(30)
    assert ended.asked is None
    assert _asked(runs) == ["running"]


async def test_after_closing_nobody_is_asked(clock: VirtualClock) -> None:
    runs = [_run("a", run=10)]
    deadlines = Deadlines(runs)
    deadlines.watch(runs[0])
    deadlines.close()
    await clock.advance(60)
    assert _asked(runs) == []


async def test_a_run_is_asked_to_stop_at_its_soft_time_out_and_to_end_at_the_hard_one(clock: VirtualClock) -> None:
    run = _run("a", run=30, soft=20)
    assert run.current is not None
    Deadlines([run]).watch(run)
    await clock.advance(19)
    assert not run.current.stopping
    await clock.advance(1)
    assert run.current.stopping
    assert run.asked is None
    await clock.advance(10)
    assert _asked([run]) == ["a"]


async def test_a_silent_run_is_asked_to_end_and_one_that_is_heard_goes_on(clock: VirtualClock) -> None:
    silent, alive, waiting = runs = [_run(name, idle=10) for name in ("silent", "alive", "waiting")]
    deadlines = Deadlines(runs)
    for run in runs:
        deadlines.watch(run)
    assert alive.current is not None
    assert waiting.current is not None
    waiting.current.heard_at = float("inf")
    for _ in range(4):
        await clock.advance(9)
        alive.current.heartbeat()
    assert _asked(runs) == ["silent"]
    assert str(silent.asked) == str(Raised(JobTimeout("was silent for 10 s")))
    waiting.current.heartbeat()
    await clock.advance(10)
    assert _asked(runs) == ["silent", "alive", "waiting"]


async def test_a_coroutine_that_goes_silent_is_cut_off_and_one_that_tells_of_itself_is_not(clock: VirtualClock) -> None:
    app = App("memory://")

    @app.task(idle_timeout=60, retry=Retry.never(), keep=600)
    async def talk(way: str) -> str:
        for number in range(5):
            await asyncio.sleep(50)
            match way:
                case "heartbeat":
                    current().heartbeat()
                case "progress":
                    current().progress(number)
                case "checkpoint":
                    await current().checkpoint(number)
                case _:
                    pass
        return way

    @app.task(idle_timeout=60, retry=Retry.never())
    async def walk() -> int:
        async for _ in current().iterate(range(5)):
            await asyncio.sleep(50)
        return 5

    async with app, app.working():
        jobs = {way: await talk.defer(way) for way in ("heartbeat", "progress", "checkpoint", "nothing")}
        walked = await walk.defer()
        await clock.advance(260)
        assert [await jobs[way].result() for way in list(jobs)[:3]] == ["heartbeat", "progress", "checkpoint"]
        assert await walked.result() == 5
        with pytest.raises(JobTimeout, match="was silent for 60 s"):
            await jobs["nothing"].result()


async def test_a_job_that_knows_how_far_it_is_hands_itself_back_at_its_soft_time_out(clock: VirtualClock) -> None:
    app = App("memory://")
    again = heard(app, JobAgain)
    runs: list[list[int]] = []

    @app.task(soft_timeout=60, timeout=600, idempotent=True)
    async def walk() -> int:
        runs.append([])
        async for number in current().iterate(range(5)):
            await asyncio.sleep(25)
            runs[-1].append(number)
        return current().attempt

    async with app:
        job = await walk.defer()
        await run_until_idle(app)
        assert await job.result() == 1
    assert runs == [[0, 1, 2], [3, 4]]
    assert [(event.reason, event.counted) for event in again] == [("its soft time-out is over", False)]
    assert clock.time() < 600


async def test_a_loop_that_stood_still_heard_nobody_and_listens_anew(clock: VirtualClock) -> None:
    run = _run("a", idle=10)
    Deadlines([run]).watch(run)
    clock.loop._now += 10 + 2 * STOOD_STILL  # pyright: ignore[reportPrivateUsage] - nothing of the loop could run
    await clock.advance(9)
    assert run.asked is None
    await clock.advance(1)
    assert _asked([run]) == ["a"]
