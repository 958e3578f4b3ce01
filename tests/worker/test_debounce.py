"""A burst of calls runs once, after it: with the last arguments, and not too late."""

from typing import Any

import pytest

from taskq import App, Debounce
from taskq.errors import ConfigError
from taskq.tasks import make_task
from taskq.testing import VirtualClock

pytestmark = pytest.mark.anyio


def saving(clock: VirtualClock, **options: Any) -> tuple[App, Any, list[tuple[str, int]]]:
    app = App("memory://")
    saved: list[tuple[str, int]] = []

    async def save(_document: int, text: str) -> None:
        saved.append((text, round(clock.time())))

    return app, app.registry.add(make_task(save, {"unique": ("_document",), **options})), saved


async def type_for(seconds: int, clock: VirtualClock, save: Any) -> None:
    for second in range(seconds):
        await save.defer(1, f"{second}")
        await clock.advance(1)


async def test_a_burst_runs_once_after_it_with_the_last_arguments(clock: VirtualClock) -> None:
    app, save, saved = saving(clock, debounce=5)
    async with app, app.working():
        await type_for(20, clock, save)
        await save.defer(2, "another")
        await clock.advance(minutes=1)
    assert saved == [("19", 24), ("another", 25)]


async def test_a_burst_that_never_ends_runs_all_the_same(clock: VirtualClock) -> None:
    app, save, saved = saving(clock, debounce=Debounce(5, at_most=30))
    async with app, app.working():
        await type_for(100, clock, save)
        await clock.advance(minutes=1)
    assert [moment for _, moment in saved] == [30, 60, 90, 104]
    assert saved[-1][0] == "99"


async def test_what_is_due_at_last_is_not_put_off_by_the_next_burst(clock: VirtualClock) -> None:
    """No worker was there in time."""
    app, save, saved = saving(clock, debounce=Debounce(5, at_most=30))
    async with app:
        await type_for(40, clock, save)
        async with app.working():
            await clock.advance()
            assert [text for text, _ in saved] == ["29"]
            await clock.advance(minutes=1)
    assert [text for text, _ in saved] == ["29", "39"]


async def test_two_bursts_with_a_pause_between_them_run_twice(clock: VirtualClock) -> None:
    app, save, saved = saving(clock, debounce=Debounce(5, at_most=3600))
    async with app, app.working():
        await type_for(3, clock, save)
        await clock.advance(10)
        await type_for(3, clock, save)
        await clock.advance(10)
        store: Any = app.backend.store
        assert [key for key in list(store.keys()) if "debounce" in key] == []
    assert [moment for _, moment in saved] == [7, 20]


@pytest.mark.parametrize("given", [0, -1, "5", True, float("nan")])
def test_a_debounce_that_makes_no_sense_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="give seconds"):
        App("memory://").task(debounce=given)(test_a_burst_runs_once_after_it_with_the_last_arguments)
    with pytest.raises(ConfigError, match="no less than in quiet"):
        Debounce(5, at_most=4)


@pytest.mark.parametrize("other", [{"delay": 1}, {"on_conflict": "raise"}, {"unique_until": "end"}])
def test_a_debounce_says_all_of_it(other: Any) -> None:
    async def save() -> None: ...

    with pytest.raises(ConfigError, match="debounce says when a call runs"):
        App("memory://").task(debounce=5, **other)(save)
    with pytest.raises(ConfigError, match="debounce says when a call runs"):
        App("memory://").task(debounce=5)(save).options(**other)


async def test_a_debounce_with_an_end_is_deferred_call_by_call() -> None:
    app = App("memory://")

    @app.task(debounce=Debounce(5, at_most=10))
    async def save() -> None: ...

    with pytest.raises(ConfigError, match="defer each call"):
        save.call()
