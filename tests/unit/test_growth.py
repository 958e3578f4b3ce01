"""Memory that grows steadily is told of; what fills up, jumps, or goes up and down is not."""

import random
from collections.abc import Callable, Mapping

import pytest

from taskq.events import MemoryGrown
from taskq.worker.memory import LEAST, Growth

SPAN = 1000
BASE = 100 << 20


def told(held: Callable[[int], float], jobs: int = 10 * SPAN) -> list[MemoryGrown]:
    """What is noticed in so many runs, looked at every 20."""
    growth = Growth(SPAN)
    found = [growth.note(done, int(held(done))) for done in range(0, jobs, 20)]
    return [grown for grown in found if grown is not None]


def test_a_leak_is_told_and_told_again_when_it_goes_on_as_long() -> None:
    leak = 2 * LEAST / SPAN
    grown = told(lambda done: BASE + leak * done)
    assert len(grown) == 9
    for each in grown:
        assert 0.8 * SPAN <= each.jobs <= SPAN
        assert each.grown == pytest.approx(leak * each.jobs, rel=0.05)
    assert [each.memory for each in grown] == sorted(each.memory for each in grown)


def test_a_leak_is_seen_among_jobs_of_all_sizes() -> None:
    chance = random.Random(7)
    assert told(lambda done: BASE + 3 * LEAST / SPAN * done + chance.random() ** 2 * (50 << 20))


NO_LEAKS: Mapping[str, Callable[[int], float]] = {
    "constant": lambda _: BASE,
    "slower than it is worth a word": lambda done: BASE + 0.5 * LEAST / SPAN * done,
    "a cache that fills": lambda done: BASE + min(done, SPAN // 2) * (1 << 20),
    "a jump": lambda done: BASE + (500 << 20) * (done > SPAN),
    "a saw": lambda done: BASE + done % (SPAN // 4) * (1 << 20),
}


@pytest.mark.parametrize("name", NO_LEAKS)
def test_what_is_no_leak_is_not_told(name: str) -> None:
    assert told(NO_LEAKS[name]) == []
