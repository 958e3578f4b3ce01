"""Callers without an event loop share one thread that has one."""

import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import pytest

from taskq.portal import Portal, refuse_inside_a_loop


class Doors:
    """Counts what a portal opens and closes, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.notes: list[str] = []

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("nobody there")
        self.notes.append("opened")
        yield
        self.notes.append("closed")


async def double(number: int) -> int:
    return 2 * number


async def fail() -> None:
    raise KeyError("its own")


@pytest.fixture
def doors() -> Doors:
    return Doors()


@pytest.fixture
def portal(doors: Doors) -> Generator[Portal]:
    portal = Portal(doors.opened)
    yield portal
    portal.close()


def test_the_first_call_opens_and_the_others_use_what_is_open(portal: Portal, doors: Doors) -> None:
    assert doors.notes == []
    assert [portal.call(double, number) for number in (1, 2, 3)] == [2, 4, 6]
    assert doors.notes == ["opened"]


def test_what_a_call_raises_is_raised_and_leaves_the_portal_open(portal: Portal, doors: Doors) -> None:
    with pytest.raises(KeyError, match="its own"):
        portal.call(fail)
    assert portal.call(double, 4) == 8
    assert doors.notes == ["opened"]


def test_closing_ends_its_thread_and_a_later_call_opens_again(portal: Portal, doors: Doors) -> None:
    before = threading.active_count()
    portal.call(double, 1)
    portal.close()

    assert doors.notes == ["opened", "closed"]
    assert threading.active_count() == before
    assert portal.call(double, 2) == 4
    assert doors.notes == ["opened", "closed", "opened"]


def test_an_opening_that_fails_leaves_no_thread_and_is_tried_again(portal: Portal, doors: Doors) -> None:
    before = threading.active_count()
    doors.failures = 2

    for _ in range(2):
        with pytest.raises(ConnectionError, match="nobody there"):
            portal.call(double, 1)
        assert threading.active_count() == before
    assert portal.call(double, 1) == 2


def test_many_threads_share_one_opening(portal: Portal, doors: Doors) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(partial(portal.call, double), range(8)))

    assert answers == [0, 2, 4, 6, 8, 10, 12, 14]
    assert doors.notes == ["opened"]


def test_outside_of_a_loop_blocking_is_allowed() -> None:
    refuse_inside_a_loop()


@pytest.mark.anyio
async def test_inside_a_loop_blocking_is_refused() -> None:
    with pytest.raises(RuntimeError, match="would block the running event loop"):
        refuse_inside_a_loop()
