"""Hot waiting: how long a loop polls, and when it gives up."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from taskq_redis.hotwait import HotWait

BOUND = 0.001


class Watched(selectors.SelectSelector):
    """Notes for how long the loop was ready to sleep, and lets its time go by: a look takes half a millisecond."""

    def __init__(self) -> None:
        super().__init__()
        self.naps: list[float | None] = []
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.naps.append(timeout)
        self.now += timeout or 0.0005
        return super().select(None if timeout is None else 0)


class Loop(asyncio.SelectorEventLoop):
    """A loop by the time of its selector, so that no other process has a say in what a test sees."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        super().__init__(watched)

    def time(self) -> float:
        return self._watched.now


def run(body: Callable[[Watched], Coroutine[Any, Any, None]]) -> None:
    watched = Watched()
    with asyncio.Runner(loop_factory=lambda: Loop(watched)) as runner:
        runner.run(body(watched))


async def call(hot: HotWait, watched: Watched, clock: list[float], takes: float = 0.0) -> tuple[bool, bool]:
    """A call whose answer takes so long by the clock: whether the loop began to poll, and whether it slept."""
    loop = asyncio.get_running_loop()
    hot.begin()
    clock[0] += takes
    answer = loop.create_future()
    loop.call_later(0.002, answer.set_result, None)
    watched.naps.clear()
    await answer
    hot.end()
    naps = [*watched.naps]
    clock[0] += 1.0
    await asyncio.sleep(0)
    return naps[0] == 0, any(nap != 0 for nap in naps)


def test_a_loop_stays_awake_until_the_answer_and_sleeps_again_after_it() -> None:
    async def body(watched: Watched) -> None:
        clock = [0.0]
        hot = HotWait(BOUND, lambda: clock[0])
        assert await call(hot, watched, clock) == (True, False)
        watched.naps.clear()
        await asyncio.sleep(0.002)
        assert any(nap for nap in watched.naps)
        assert await call(hot, watched, clock) == (True, False)

    run(body)


def test_where_answers_come_late_twice_as_many_calls_go_without_each_time() -> None:
    async def body(watched: Watched) -> None:
        clock = [0.0]
        hot = HotWait(BOUND, lambda: clock[0])
        late = [await call(hot, watched, clock, takes=2 * BOUND) for _ in range(12)]
        assert all(slept for _, slept in late)
        assert [at for at, (polled, _) in enumerate(late) if polled] == [0, 2, 5, 10]
        in_time = [await call(hot, watched, clock) for _ in range(10)]
        assert [polled for polled, _ in in_time] == 7 * [False] + 3 * [True]

    run(body)


def test_an_answer_that_comes_late_before_anybody_has_looked_at_the_clock_is_late() -> None:
    async def body(watched: Watched) -> None:
        clock = [0.0]
        hot = HotWait(BOUND, lambda: clock[0])
        hot.begin()
        clock[0] += 2 * BOUND
        hot.end()
        await asyncio.sleep(0)
        assert [(await call(hot, watched, clock))[0] for _ in range(2)] == [False, True]

    run(body)


def test_nothing_is_polled_where_it_is_switched_off() -> None:
    async def body(watched: Watched) -> None:
        assert await call(HotWait(0.0), watched, [0.0]) == (False, True)

    run(body)
