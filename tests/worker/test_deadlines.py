"""Deadlines: one timer for all, each run asked in its time and only once."""

import pytest

from taskq.outcome import Raised
from taskq.testing import VirtualClock
from taskq.worker.deadlines import Deadlines
from taskq.worker.runner import Run
from tests.worker.moves import a_delivery

pytestmark = pytest.mark.anyio


def _run(name: str, deadline: float | None) -> Run:
    run = Run(a_delivery(name))
    run.timeout = run.deadline = deadline
    return run


def _asked(runs: list[Run]) -> list[str]:
    return [run.delivery.job.id for run in runs if isinstance(run.asked, Raised)]


async def test_each_run_is_asked_at_its_own_deadline(clock: VirtualClock) -> None:
    runs = [_run("late", 300), _run("early", 10), _run("middle", 60), _run("never", None)]
    deadlines = Deadlines(runs)
    for run in runs:
        if run.deadline is not None:
            deadlines.watch(run.deadline)
    await clock.advance(9)
    assert _asked(runs) == []
    await clock.advance(1)
    assert _asked(runs) == ["early"]
    await clock.advance(50)
    assert _asked(runs) == ["early", "middle"]
    await clock.advance(240)
    assert _asked(runs) == ["late", "early", "middle"]


async def test_an_earlier_deadline_moves_the_timer(clock: VirtualClock) -> None:
    runs = [_run("late", 300)]
    deadlines = Deadlines(runs)
    deadlines.watch(300)
    await clock.advance(5)
    runs.append(_run("early", 10))
    deadlines.watch(10)
    await clock.advance(5)
    assert _asked(runs) == ["early"]


async def test_a_run_that_has_ended_is_not_asked(clock: VirtualClock) -> None:
    runs = [_run("ended", 10), _run("running", 20)]
    ended, _ = runs
    deadlines = Deadlines(runs)
    deadlines.watch(10)
    del runs[0]
    await clock.advance(30)
    assert ended.asked is None
    assert _asked(runs) == ["running"]


async def test_after_closing_nobody_is_asked(clock: VirtualClock) -> None:
    runs = [_run("a", 10)]
    deadlines = Deadlines(runs)
    deadlines.watch(10)
    deadlines.close()
    await clock.advance(60)
    assert _asked(runs) == []
