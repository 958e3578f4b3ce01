"""One run for all that gathered: nothing is lost, nothing comes twice, a set stays together."""

import asyncio
import os
import random
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from taskq import App, Collect, RateLimit, SomeFailed, Task, current
from taskq.errors import BrokerUnavailable, ConfigError, EncodeError, JobFailed, PayloadTooLarge
from taskq.events import JobFinished
from taskq.retry import Retry
from taskq.tasks import make_task
from taskq.testing import VirtualClock, run_until_idle
from taskq.testing.lives import LEASE, run_delivery, settle_run
from taskq.testing.mortal import Died, Life
from tests.worker.moves import SOON, heard
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio

LONG = "TASKQ_TEST_LONG" in os.environ


class View(msgspec.Struct, frozen=True):
    post: int
    user: int


def counter(app: App, **options: Any) -> tuple[Task[..., int], list[list[View]]]:
    """A task that counts views of a post, and its runs."""
    runs: list[list[View]] = []

    async def count(views: list[View]) -> int:
        runs.append(views)
        return len(views)

    settings: dict[str, Any] = {"collect": Collect(size=100, wait=300, key=("post",)), "idempotent": True, **options}
    return app.registry.add(make_task(count, {"name": "count", **settings})), runs


def post_of(view: View) -> int:
    return view.post


async def test_what_gathers_in_a_window_runs_together(clock: VirtualClock) -> None:
    app = App("memory://")
    count, runs = counter(app)
    async with app, app.working():
        for user in range(20):
            await count.defer(View(user % 2, user))
            await clock.advance(1)
        await clock.advance(minutes=6)
    assert len(runs) <= 4
    assert all(len({view.post for view in run}) == 1 for run in runs)
    assert sorted(view.user for run in runs for view in run) == list(range(20))


async def test_enough_items_need_not_wait_for_the_end_of_their_window(clock: VirtualClock) -> None:
    app = App("memory://")
    count, runs = counter(app, collect=Collect(size=10, wait=3600))
    async with app, app.working():
        for user in range(35):
            await count.defer(View(0, user))
        await clock.advance()
        assert [len(run) for run in runs] == [10, 10, 10]
        await clock.advance(hours=1)
        assert [len(run) for run in runs] == [10, 10, 10, 5]


async def test_items_that_come_together_share_their_calls(tap: Tap) -> None:
    app = App("memory://")
    count, runs = counter(app, collect=Collect(size=100, wait=0.2))
    async with app:
        await asyncio.gather(*(count.defer(View(0, user)) for user in range(250)))
        await run_until_idle(app, until="empty")
    assert sorted(view.user for run in runs for view in run) == list(range(250))
    assert all(len(run) <= 100 for run in runs)
    assert len(tap.sizes("enqueue")) < 20


async def test_a_set_stays_together_over_its_attempts(clock: VirtualClock) -> None:
    app = App("memory://")
    runs: list[list[int]] = []

    @app.task(collect=Collect(wait=10), retry=Retry.fixed(3, 100))
    async def count(numbers: list[int]) -> None:
        runs.append(numbers)
        if current().attempt < 3:
            raise ConnectionError

    async with app, app.working():
        for number in range(3):
            await count.defer(number)
        await clock.advance(20)
        await count.defer(99)
        await clock.advance(minutes=30)
    assert Counter(map(tuple, runs)) == {(0, 1, 2): 3, (99,): 3}


async def test_a_set_whose_worker_died_runs_again_as_it_was(clock: VirtualClock) -> None:
    app = App("memory://", lease=30)
    runs: list[list[int]] = []
    gate = anyio.Event()

    @app.task(collect=Collect(wait=10))
    async def count(numbers: list[int]) -> None:
        runs.append(numbers)
        if len(runs) == 1:
            await gate.wait()

    async with app:
        for number in range(3):
            await count.defer(number)
        async with app.working() as worker:
            await clock.advance(25)
            assert len(runs) == 1
            # It comes into another's hands while this one's run goes on, unnoticed.
            (run,) = worker.running
            worker.quiet(True)
            await clock.advance()
            await app.backend.broker.extend([run.delivery.receipt], 0.1)
            async with app.working():
                await clock.advance(1)
                await count.defer(99)
                await clock.advance(minutes=1)
            gate.set()
    assert [sorted(run) for run in runs] == [[0, 1, 2], [0, 1, 2], [99]]


@pytest.mark.long
async def test_as_24_views_are_counted_once_a_reader_though_each_windows_worker_dies(clock: VirtualClock) -> None:
    """Of fifty minutes' views three of ten are loaded again within the minute; a third of some windows fails first."""
    posts, each = (200, 200) if LONG else (20, 20)
    app, chance = App("memory://"), random.Random(24)
    updates: dict[str, set[View]] = {}
    windows: Counter[tuple[int, int]] = Counter()
    deaths = 0

    @app.task(collect=Collect(size=10_000, wait=300, key=("post",)))
    async def count(views: list[View]) -> None:
        await anyio.lowlevel.checkpoint()
        if current().id not in updates:
            windows[views[0].post, int(clock.time() // 300)] += 1
        failed = views[::3] if current().attempt == 1 and chance.random() < 0.2 else []
        updates.setdefault(current().id, set()).update(view for view in views if view not in failed)
        await anyio.lowlevel.checkpoint()
        if failed:
            raise SomeFailed([view for view in views if view in failed])

    async with app:
        seen: set[View] = set()
        for minute in range(50 + 6):
            many = each if minute < 50 else 0
            views = [View(chance.randrange(posts), chance.randrange(500)) for _ in range(many)]
            await asyncio.gather(*(count.defer(view) for view in [*views, *views[: len(views) * 3 // 10]]))
            seen.update(views)
            await clock.advance(minutes=1)
            while deliveries := await app.backend.broker.fetch(["default"], 100, lease=LEASE, wait=0.0):
                for delivery in deliveries:
                    life = None if delivery.losses else Life(chance.randrange(4))
                    try:
                        await settle_run(app, *await run_delivery(app, delivery, count, life))
                    except Died:
                        deaths += 1
                        await app.backend.broker.extend([delivery.receipt], 0.0)
        assert not any(line.later or line.ready for line in await app.admin.stats())
    assert set().union(*updates.values()) == seen
    assert max(windows.values()) == 1
    assert deaths > len(updates) / 2


async def test_nothing_of_a_set_remains_when_it_was_run(clock: VirtualClock) -> None:
    app = App("memory://")
    count, runs = counter(app)
    async with app, app.working():
        for user in range(250):
            await count.defer(View(user % 3, user))
        await clock.advance(minutes=10)
        store: Any = app.backend.store
        assert [key for key in list(store.keys()) if "collect" in key] == []
    assert sum(map(len, runs)) == 250


async def test_a_dead_letter_keeps_its_set_until_it_is_revived(clock: VirtualClock) -> None:
    app = App("memory://")
    broken = True
    done: list[int] = []

    @app.task(collect=Collect(wait=10), retry=Retry.never(), keep=60)
    async def count(numbers: list[int]) -> int:
        if broken:
            raise ZeroDivisionError
        done.extend(numbers)
        return len(numbers)

    async with app, app.working():
        first = await count.defer(1)
        second = await count.defer(2)
        assert (first.id, first.added, second.added) == (second.id, True, False)
        with pytest.raises(JobFailed):
            await first.result(60)
        broken = False
        await count.defer(3)
        assert await app.admin.revive([first.ref]) == ["revived"]
        assert await second.result(60) == 2
        await clock.advance(60)
    assert done == [1, 2, 3]


async def test_items_that_failed_come_again_alone_and_the_others_are_done(clock: VirtualClock) -> None:
    app = App("memory://")
    runs: list[tuple[int, list[int]]] = []

    @app.task(collect=Collect(wait=10), retry=Retry.fixed(3, 100), keep=3600)
    async def count(numbers: list[int]) -> int:
        runs.append((current().attempt, list(numbers)))
        numbers.sort(reverse=True)
        bad = [number for number in numbers if number >= 10 * current().attempt]
        if bad:
            raise SomeFailed(bad, "too large")
        return len(numbers)

    async with app, app.working():
        # Of two equal items one is as good as the other.
        handles = [await count.defer(number) for number in (1, 2, 12, 13, 25, 12, 99)]
        await clock.advance(20)
        await count.defer(3)
        with pytest.raises(JobFailed, match="1 of its items failed: too large"):
            await handles[-1].result(600)
        await clock.advance(60)
        dead = await app.admin.lookup(handles[0].ref)
        assert dead is not None
        assert dead.state == "dead"
        # What a dead letter keeps is what has failed in each of its attempts.
        assert await app.admin.revive([handles[0].ref]) == ["revived"]
        await clock.advance(60)
    first = [run for run in runs if 3 not in run[1]]
    assert [(attempt, sorted(numbers)) for attempt, numbers in first[:4]] == [
        (1, [1, 2, 12, 12, 13, 25, 99]),
        (2, [12, 12, 13, 25, 99]),
        (3, [25, 99]),
        (1, [99]),
    ]
    assert (1, [3]) in runs


def even_first(numbers: list[View]) -> list[int]:
    odd = [view for view in numbers if view.user % 2]
    if odd and len(numbers) > len(odd):
        raise SomeFailed(odd)
    return [view.user for view in numbers]


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_items_that_failed_are_found_wherever_the_handler_ran(url: str, executor: str) -> None:
    app = App(url)
    options = {"collect": Collect(size=4, wait=60), "retry": Retry.fixed(2, 0), "executor": executor, "keep": 60}
    count: Task[..., list[int]] = app.registry.add(make_task(even_first, options))
    async with app:
        handles = [await count.defer(View(0, user)) for user in range(4)]
        await count.defer(View(0, 4))
        async with app.working():
            assert await handles[0].result(SOON) == [1, 3]


async def test_an_item_that_the_run_was_not_given_cannot_have_failed(clock: VirtualClock) -> None:
    app = App("memory://")
    runs: list[list[int]] = []

    @app.task(collect=Collect(wait=10), retry=Retry.fixed(2, 10))
    async def count(numbers: list[int]) -> None:
        runs.append(numbers)
        raise SomeFailed([numbers[0], 1, 1])

    async with app, app.working():
        for number in range(3):
            await count.defer(number)
        await clock.advance(60)
    assert runs == [[0, 1, 2]] * 2
    with pytest.raises(ConfigError, match="when none did, return"):
        SomeFailed([])


async def test_a_defer_that_failed_may_be_repeated_and_what_it_left_is_not_lost(tap: Tap) -> None:
    app = App("memory://")
    count, runs = counter(app, collect=Collect(wait=0.2))
    async with app:
        await count.defer(View(1, 1))
        tap.broken = "before"
        with pytest.raises(BrokerUnavailable):
            await count.defer(View(1, 2))
        tap.broken = "no"
        await count.defer(View(1, 2))
        await run_until_idle(app, until="empty")
    # At least once: who repeats a call whose outcome was unknown may have made it twice.
    assert Counter(view.user for run in runs for view in run) == {1: 1, 2: 2}


async def test_a_collecting_task_is_limited_as_others_are(clock: VirtualClock) -> None:
    app = App("memory://")
    count, runs = counter(app, collect=Collect(size=1, wait=60), limits=RateLimit(1, per=100))
    async with app, app.working():
        for user in range(3):
            await count.defer(View(0, user))
        await clock.advance(150)
        assert len(runs) == 2
        await clock.advance(minutes=10)
    assert sum(map(len, runs)) == 3


async def test_a_plain_call_and_a_run_inline_take_one_item(url: str) -> None:
    app = App(url)
    count, runs = counter(app)
    async with app:
        assert await count(View(1, 1)) == 1
        assert await count.run_inline(View(1, 2)) == 1
    assert runs == [[View(1, 1)], [View(1, 2)]]


async def test_the_windows_job_is_told_of_as_any_other(url: str) -> None:
    app = App(url)
    finished = heard(app, JobFinished)
    count, runs = counter(app, collect=Collect(wait=0.2, key=post_of))
    async with app:
        await asyncio.gather(*(count.defer(View(post, 1)) for post in range(5) for _ in range(5)))
        await run_until_idle(app, until="empty", raise_failures=True)
    assert {event.end for event in finished} <= {"returned", "discarded"}
    assert Counter(view.post for run in runs for view in run) == dict.fromkeys(range(5), 5)


# What makes no sense


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"unique": True}, "so unique= has no place there"),
        ({"delay": 5}, "so delay= has no place there"),
        ({"expires_at": datetime(2030, 1, 1, tzinfo=UTC)}, "so expires_at= has no place there"),
        ({"group": "all"}, "so group= has no place there"),
        ({"transaction": True}, "so transaction= has no place there"),
        ({"delivery": "at_most_once"}, "would lose them all"),
        ({"limits": RateLimit(1, key=("views",))}, "no single key"),
        ({"collect": 500}, r"give Collect\(size"),
    ],
)
def test_options_that_make_no_sense_for_many_calls_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        counter(App("memory://"), **given)


@pytest.mark.parametrize("given", [{"size": 0}, {"size": 1.5}, {"wait": 0}, {"wait": -1}, {"key": "post"}])
def test_a_collection_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Collect(**given)


@pytest.mark.parametrize("parameters", ["views: int", "views: list[int], more: int", ""])
def test_a_collecting_task_takes_one_list(parameters: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"async def count({parameters}) -> None: ...", scope)  # noqa: S102 - three signatures in one test
    with pytest.raises(ConfigError, match="one argument, a list of items"):
        App("memory://").task(name="count", collect=Collect())(scope["count"])


async def test_a_call_of_a_collecting_task_is_one_item_and_nothing_else() -> None:
    app = App("memory://")
    count, _ = counter(app)
    async with app:
        with pytest.raises(EncodeError, match="pass one, by position"):
            await count.defer(View(1, 1), View(1, 2))
        with pytest.raises(EncodeError, match="views"):
            await count.defer("no view")
        with pytest.raises(ConfigError, match="no call has options of its own"):
            count.options(priority=1)
        with pytest.raises(ConfigError, match="defer each item"):
            count.call(View(1, 1))


async def test_an_item_that_is_too_large_or_has_no_key_is_refused() -> None:
    app = App("memory://")

    @app.task(collect=Collect(key=("post",)))
    async def count(views: list[dict[str, str]]) -> None: ...

    async with app:
        with pytest.raises(ConfigError, match="key of what is collected cannot be found: KeyError"):
            await count.defer({"user": "1"})
        with pytest.raises(PayloadTooLarge, match="pass where it is"):
            await count.defer({"post": "x" * 2000})


@pytest.mark.usefixtures("clock")
async def test_a_handler_in_a_transaction_cannot_collect() -> None:
    app = App("memory://")
    count, _ = counter(app)

    @app.task(transaction=True, retry=Retry.never())
    async def view() -> None:
        await count.defer(View(1, 1))

    async with app:
        await view.defer()
        worked = await run_until_idle(app)
    assert "takes part in no transaction" in str(worked.failures[0])
