"""The throttle: fewer jobs at once while the event loop lags, more again when it does not, within bounds."""

import asyncio
import time
from collections.abc import Iterable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq import App
from taskq.worker.register import workers
from taskq.worker.throttle import Throttle, next_limit
from taskq.worker.worker import Worker
from tests.worker.moves import SOON, wait_until

pytestmark = pytest.mark.anyio


def followed(lags: Iterable[float], *, least: int = 2, most: int = 100) -> list[int]:
    """The limits after periods with these lags, from all slots on."""
    limits = [most]
    for lag in lags:
        limits.append(next_limit(limits[-1], lag, target=0.1, least=least, most=most))
    return limits[1:]


def test_a_share_less_with_each_lagging_period_down_to_the_least() -> None:
    assert followed([0.2] * 4) == [75, 56, 42, 31]
    assert followed([0.2] * 30)[-1] == 2
    assert followed([0.2] * 30, least=8, most=4)[-1] == 4


def test_a_step_more_with_each_quiet_period_up_to_all() -> None:
    assert followed([0.2, 0.2, 0.0, 0.0]) == [75, 56, 61, 66]
    assert followed([0.2] + [0.0] * 10)[-1] == 100
    assert followed([0.2, 0.2, 0.0], most=4) == [3, 2, 3]


def test_between_half_the_target_and_the_target_nothing_changes() -> None:
    assert followed([0.2, 0.05, 0.1]) == [75, 75, 75]


def test_fewer_slots_than_before_are_never_exceeded() -> None:
    assert next_limit(100, 0.07, target=0.1, least=1, most=10) == 10


@given(st.lists(st.floats(0, 10), max_size=50), st.integers(1, 200), st.integers(1, 200))
def test_whatever_it_measures_it_stays_within_its_bounds(lags: list[float], least: int, most: int) -> None:
    assert all(min(least, most) <= limit <= most for limit in followed(lags, least=least, most=most))


async def throttled(worker: Worker, *lags: float) -> None:
    """Let periods with these lags pass."""
    left = list(lags)

    async def lag() -> float:
        if not left:
            raise EndOfPeriodsError
        return left.pop(0)

    with pytest.raises(EndOfPeriodsError):
        await Throttle(worker.pools, target=0.1, least=1, lag=lag).run()


class EndOfPeriodsError(Exception):
    """No more are planted."""


async def test_a_throttled_worker_runs_fewer_jobs_and_says_so() -> None:
    app = App("memory://", slots=4)
    running, most, gate = 0, 0, anyio.Event()

    @app.task
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1

    async with app, app.working() as worker:
        await throttled(worker, 1.0, 1.0)
        assert (worker.look().slots, worker.look().withheld) == (2, 2)
        with anyio.fail_after(SOON):
            while not (entries := await workers(app.store, app.backend.hints)):
                pass
        assert [(entry.slots, entry.withheld) for entry in entries] == [(2, 2)]
        await app.defer_many(work.call() for _ in range(8))
        await wait_until(lambda: running == 2)
        # It shrinks further under what runs, and all of it goes on.
        await throttled(worker, 1.0)
        assert (worker.look().slots, running) == (1, 2)
        await throttled(worker, 0, 0, 0)
        await wait_until(lambda: running == 4)
        gate.set()
    assert (running, most) == (0, 4)


async def test_jobs_that_hold_up_the_loop_get_fewer_slots() -> None:
    app = App("memory://", slots=20, lag_target=0.02, slots_min=15)
    done = False

    @app.task
    async def compute() -> None:
        while not done:
            time.sleep(0.002)  # noqa: ASYNC251 - it computes
            await asyncio.sleep(0)

    async with app, app.working() as worker:
        await app.defer_many(compute.call() for _ in range(20))
        await wait_until(lambda: worker.look().slots == 15)
        assert worker.look().withheld == 5
        done = True


async def test_a_worker_that_was_not_asked_to_measures_nothing() -> None:
    app = App("memory://")
    async with app, app.working():
        coroutines = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
    assert not any("Throttle" in name or "loop_lag" in name for name in coroutines)
