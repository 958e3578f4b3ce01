"""What became of jobs: totals are the truth, cost a write a minute, outlive a drain, and lapse."""

from collections import Counter
from collections.abc import Mapping

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq import App, Discard, Snooze, current
from taskq.errors import ConfigError
from taskq.history import KEPT, look_back, mark, marks
from taskq.history.tally import Counts, bucket_of, merged, quantile, read, written
from taskq.retry import Retry
from taskq.testing import VirtualClock, run_until_idle
from tests.worker.moves import SOON, hand_over, wait_until
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio

HOUR = 3600.0


async def totals(app: App, seconds: float = HOUR) -> Mapping[str, Counts]:
    """By task."""
    past = await look_back(app.store, seconds)
    return {task: counts for (_, task), counts in past.totals.items()}


async def ends(app: App, seconds: float = HOUR) -> Mapping[str, int]:
    """Of all tasks together."""
    counted: Counter[str] = Counter()
    for counts in (await totals(app, seconds)).values():
        counted.update(counts.ends)
    return +counted


async def test_totals_are_what_really_happened(clock: VirtualClock) -> None:
    app = App("memory://", history=KEPT)
    truth: Counter[str] = Counter()

    def note(end: str) -> None:
        truth[end] += 1

    @app.task(name="mixed", retry=Retry.fixed(2, 60.0))
    async def mixed(n: int) -> None:
        await anyio.sleep(2.0)
        match n % 5:
            case 0 if current().headers.get("x") is None and current().attempt == 1:
                note("again")
                raise ValueError
            case 1:
                note("failed" if current().attempt == 2 else "again")
                raise ValueError
            case 2:
                note("discarded")
                raise Discard
            case 3 if clock.time() < 4 * HOUR:
                note("handed back")
                raise Snooze(4 * HOUR)
            case _:
                note("returned")

    async with app, app.working(slots=3):
        for n in range(100):
            await mixed.defer(n)
            await clock.advance(minutes=4)
        await clock.advance(hours=8)
        assert await ends(app, 24 * HOUR) == truth
        counts = (await totals(app, 24 * HOUR))["mixed"]
        assert counts.ended == 100
        assert sum(counts.waits.values()) == sum(counts.runs.values()) == sum(truth.values())
        median = quantile(counts.runs, 0.5)
        assert median is not None
        assert 1.8 < median < 2.2
        past = await look_back(app.store, 24 * HOUR)
        assert sum(past.course(("default", "mixed"), 24)) == 100
        assert not (await look_back(app.store, 24 * HOUR, task="other")).totals
        assert not (await look_back(app.store, HOUR)).totals


async def test_a_worker_writes_once_a_minute_and_nothing_while_nothing_happens(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", history=KEPT)

    @app.task(name="busy")
    async def busy() -> None: ...

    async with app, app.working():
        for _ in range(1000):
            await busy.defer()
            await clock.advance(1.0)
        await clock.advance(hours=1)
        writes = [key for key in tap.swapped if key.startswith("history:")]
        assert len(writes) <= 1000 / 60 + 1
        assert (await totals(app, 2 * HOUR))["busy"].ended == 1000


async def test_what_is_too_old_lapses(clock: VirtualClock) -> None:
    app = App("memory://", history=2 * HOUR)

    @app.task
    async def once() -> None: ...

    async with app, app.working():
        await once.defer()
        await clock.advance(hours=1)
        assert await ends(app, 100 * HOUR) == {"returned": 1}
        await clock.advance(hours=2)
        assert not (await look_back(app.store, 100 * HOUR)).slices


async def test_nothing_is_lost_or_doubled_by_a_store_that_is_away(clock: VirtualClock, tap: Tap) -> None:
    app = App("memory://", history=KEPT)

    @app.task(name="steady")
    async def steady() -> None: ...

    async with app, app.working():
        for minute in range(60):
            tap.store_is_away = minute % 7 in (2, 3)
            tap.store_loses_answers = minute % 5 == 1
            await steady.defer()
            await clock.advance(minutes=1)
        tap.store_is_away = tap.store_loses_answers = False
        await clock.advance(minutes=5)
        assert await ends(app, 3 * HOUR) == {"returned": 60}


async def test_a_drained_worker_has_written_all_and_two_count_each_job_once(url: str) -> None:
    app = App(url, history=KEPT)

    @app.task(queue="mail", retry=1)
    async def send(n: int) -> None:
        if n == 3:
            raise ValueError

    async with app:
        async with app.working(), app.working():
            jobs = [await send.defer(n) for n in range(5)]
            for job in jobs:
                await gone(app, job.id)
        assert await ends(app) == {"returned": 4, "failed": 1}
        await send.defer(9)
        await run_until_idle(app)
        assert await ends(app) == {"returned": 5, "failed": 1}


async def gone(app: App, name: str) -> None:
    """Return when the job has ended."""
    with anyio.fail_after(SOON):
        while (record := await app.admin.find(name)) is not None and record.state != "dead":  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)


async def test_an_end_that_came_too_late_is_not_counted_as_one(url: str) -> None:
    app, gate = App(url, history=KEPT, on_lost_contact="finish"), anyio.Event()
    begun: list[int] = []

    @app.task
    async def slow() -> None:
        begun.append(current().fence)
        if len(begun) == 1:
            with anyio.CancelScope(shield=True):
                await gate.wait()

    async with app:
        async with app.working(queues=["default"]) as first:
            await slow.defer()
            await wait_until(lambda: begun)
            (run,) = first.running
            async with app.working():
                await hand_over(app, run, lambda: len(begun) > 1)
                gate.set()
                await wait_until(lambda: not first.running)
        found = await ends(app)
        assert (found["returned"], found["late"]) == (1, 1)


async def test_nothing_is_counted_and_no_event_built_unless_that_is_wanted() -> None:
    app = App("memory://")

    @app.task
    async def once() -> None:
        assert not app.events.listeners

    async with app, app.working():
        job = await once.defer()
        await gone(app, job.id)
        assert not (await look_back(app.store, HOUR)).slices


@given(st.lists(st.floats(0.002, 200_000.0), min_size=1), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_right_to_a_tenth(seconds: list[float], share: float) -> None:
    histogram = Counter(map(bucket_of, seconds))
    found = quantile(histogram, share)
    exact = sorted(seconds)[max(0, -int(-share * len(seconds) // 1) - 1)]
    assert found is not None
    assert exact / 1.1 <= found <= exact * 1.1


def test_what_is_stored_is_read_again_and_what_cannot_be_read_is_nothing() -> None:
    tally = {("mail", "send"): Counts({"returned": 2}, {-3: 2}, {5: 1, 6: 1})}
    assert read(written(tally)) == tally
    assert read(b"\xff") == read(None) == {}
    assert merged([tally, tally])["mail", "send"].ends == {"returned": 4}
    assert tally["mail", "send"].ends == {"returned": 2}
    assert quantile({}, 0.5) is None
    assert bucket_of(0.0) == bucket_of(-1.0)


async def test_marks_lapse_after_ninety_days_and_more_than_are_kept_are_refused(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "MOST", 2)
    async with App("memory://") as app:
        first = await mark(app.store, "a")
        assert await mark(app.store, "a") == first
        await clock.advance(minutes=1)
        second = await mark(app.store, "a")
        assert (await look_back(app.store, HOUR)).marks == [first, second]
        with pytest.raises(ConfigError, match="mark deploys, not jobs"):
            await mark(app.store, "b")
        await clock.advance(hours=24 * 90)
        assert (await look_back(app.store, 100 * 24 * HOUR)).marks == []
