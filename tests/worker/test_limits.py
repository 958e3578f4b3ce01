"""Limits in the line: never over, refused seldom, and nothing held for ever."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskq import App, Concurrency, RateLimit, Snooze, current
from taskq.connect import connect
from taskq.errors import ConfigError, JobDiscarded, LimitExceeded
from taskq.events import Events, JobAgain, JobFinished, LimitGranted, LimitRefused, PlaceLeft, PlaceLost, PlaceTaken
from taskq.limits.keeper import Keeper
from taskq.limits.outside import holding
from taskq.retry import Retry
from taskq.store import Store
from taskq.testing import VirtualClock, run_until_idle
from tests.worker import test_limit_servers
from tests.worker.moves import SOON, heard, lose, one_memory

pytestmark = pytest.mark.anyio


def most_within(moments: list[float], seconds: float) -> int:
    return max(sum(end - seconds < moment <= end for moment in moments) for end in moments)


def itself(customer: str) -> str:
    return customer


def name_of(user: dict[str, str]) -> str:
    return user["name"]


def everything_of(user: Any) -> Any:
    return user


async def test_a_rate_limited_task_is_refused_once_a_job_and_never_over(clock: VirtualClock) -> None:
    app = App("memory://", slots=20)
    again = heard(app, JobAgain)
    began: list[float] = []

    @app.task(limits=RateLimit(10, per=1))
    async def call(_n: int) -> None:
        began.append(clock.time())

    async with app, app.working(), app.working():
        await app.defer_many(call.call(n) for n in range(500))
        await clock.advance(minutes=1)
    assert len(began) == 500
    assert most_within(began, 1.0) == 10
    assert began[-1] <= 50 * 1.03
    assert len(again) <= 500
    assert {(event.counted, event.reason) for event in again} == {(False, "refused by a limit")}


async def test_each_key_has_a_rate_of_its_own(clock: VirtualClock) -> None:
    app = App("memory://")
    began: dict[str, list[float]] = defaultdict(list)

    @app.task(limits=RateLimit(1, per=10, key=("customer",)))
    async def call(customer: str) -> None:
        began[customer].append(clock.time())

    async with app, app.working():
        await app.defer_many(call.call(customer) for customer in "abcabc")
        await clock.advance(minutes=1)
    assert [round(moments[1] - moments[0]) for moments in began.values()] == [10, 10, 10]


async def test_a_retry_stands_in_the_line_again(clock: VirtualClock) -> None:
    app = App("memory://")
    began: list[float] = []

    @app.task(limits=RateLimit(1, per=10), retry=Retry.fixed(3, 0))
    async def call() -> None:
        began.append(clock.time())
        raise ConnectionError

    async with app, app.working():
        await call.defer()
        await clock.advance(minutes=1)
    assert most_within(began, 10.0) == 1
    assert len(began) == 3


async def test_a_budget_of_retries_keeps_an_outage_from_becoming_a_storm(clock: VirtualClock) -> None:
    app = App("memory://", slots=50)
    firsts: list[float] = []
    retries: list[float] = []
    fine: list[float] = []

    @app.task(limits=RateLimit(10, per=60, retries=True), retry=Retry.fixed(5, 1))
    async def call(_n: int) -> None:
        (firsts if current().attempt == 1 else retries).append(clock.time())
        if clock.time() - firsts[0] < 120:
            raise ConnectionError
        fine.append(clock.time())

    async with app, app.working():
        await app.defer_many(call.call(n) for n in range(100))
        await clock.advance(hours=1)
    assert len(fine) == 100
    assert firsts[-1] - firsts[0] < 1, "first attempts wait for no budget"
    assert most_within(retries, 60.0) == 10
    assert retries[-1] - retries[0] < 60 * (len(retries) / 10 + 1)


async def test_a_budget_of_retries_stands_beside_a_limit_on_all_attempts(clock: VirtualClock) -> None:
    app = App("memory://")
    began: list[float] = []

    @app.task(limits=[RateLimit(1, per=10), RateLimit(1, per=100, retries=True)], retry=Retry.fixed(4, 0))
    async def call() -> None:
        began.append(clock.time())
        raise ConnectionError

    async with app, app.working():
        await call.defer()
        await clock.advance(minutes=10)
    assert len(began) == 4
    assert most_within(began[1:], 100.0) == 1
    assert most_within(began, 10.0) == 1


async def test_all_limits_of_a_task_hold(clock: VirtualClock) -> None:
    app = App("memory://")
    began: list[tuple[str, float]] = []

    @app.task(limits=[RateLimit(5, per=1), RateLimit(1, per=1, key=itself)])
    async def call(customer: str) -> None:
        began.append((customer, clock.time()))

    async with app, app.working():
        await app.defer_many(call.call(f"{n % 20}") for n in range(100))
        await clock.advance(minutes=2)
    assert len(began) == 100
    assert most_within([moment for _, moment in began], 1.0) <= 5
    assert all(most_within([at for name, at in began if name == f"{n}"], 1.0) == 1 for n in range(20))


async def test_limits_of_one_name_count_together(clock: VirtualClock) -> None:
    app = App("memory://")
    api = RateLimit(1, per=10, name="api")
    began: list[float] = []

    @app.task(limits=api)
    async def one() -> None:
        began.append(clock.time())

    @app.task(limits=[api])
    async def two() -> None:
        async with api.of(wait=100):
            began.append(clock.time())

    async with app, app.working():
        await one.defer()
        await two.defer()
        await clock.advance(minutes=1)
    assert len(began) == 2
    assert began[1] - began[0] > 20


async def test_of_one_key_at_most_so_many_run_and_nothing_is_refused(url: str) -> None:
    app = App(url, slots=20)
    again = heard(app, JobAgain)
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    @app.task(limits=Concurrency(2, key=("shop",)))
    async def sync(shop: str, _n: int) -> None:
        running[shop] += 1
        most[shop] = max(most[shop], running[shop])
        await anyio.sleep(0.001)
        running[shop] -= 1

    async with app:
        await app.defer_many(sync.call(shop, n) for n in range(20) for shop in "ab")
        worked = await run_until_idle(app, raise_failures=True)
    assert len(worked.finished) == 40
    assert most == {"a": 2, "b": 2}
    assert again == []


async def test_what_may_not_overlap_is_skipped_when_its_turn_comes(url: str) -> None:
    app = App(url)
    finished = heard(app, JobFinished)
    started, gate = anyio.Event(), anyio.Event()

    @app.task(limits=Concurrency(1, key=("_newsletter",), overlap="skip"), keep=60)
    async def send(_newsletter: int) -> None:
        started.set()
        await gate.wait()

    async with app, app.working():
        first = await send.defer(1)
        await started.wait()
        second = await send.defer(1)
        with pytest.raises(JobDiscarded, match="skipped_overlap"):
            await second.result(SOON)
        assert await first.status() == "leased"
        other = await send.defer(2)
        gate.set()
        await first.result(SOON)
        await other.result(SOON)
        await (await send.defer(1)).result(SOON)
    assert Counter(event.end for event in finished) == {"returned": 3, "discarded": 1}


async def test_a_place_is_looked_at_when_the_turn_of_the_rates_has_come(clock: VirtualClock) -> None:
    app = App("memory://")
    began: list[float] = []

    @app.task(limits=[RateLimit(1, per=10), RateLimit(2, per=60), Concurrency(1, overlap="skip")])
    async def send(seconds: float) -> None:
        began.append(clock.time())
        await anyio.sleep(seconds)

    async with app, app.working():
        await send.defer(8)
        await clock.advance(1)
        await send.defer(0)
        await clock.advance(20)
    assert len(began) == 2


@pytest.mark.usefixtures("clock")
async def test_as_03_two_workers_race_on_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskq.opening.connect", one_memory())
    await test_limit_servers.test_as_03_two_workers_race_for_each_newsletter_and_one_of_them_sends("memory://")


@pytest.mark.usefixtures("clock")
async def test_a_job_does_not_skip_itself_when_its_worker_has_died() -> None:
    app = App("memory://", lease=30)

    taken, left = heard(app, PlaceTaken), heard(app, PlaceLeft)

    @app.task(limits=Concurrency(1, overlap="skip"))
    async def send() -> int:
        return current().losses

    async with app:
        job = await send.defer()
        assert app.backend.store is not None
        (delivery,) = await app.backend.broker.fetch(["default"], 1, lease=1, wait=0)
        held = f"{delivery.receipt}/{job.id}"
        await app.backend.store.add(f"limit:{send.name}:places:", [held], ttl=30, ceiling=1)
        async with app.working():
            assert await job.result(SOON) == 1
    assert len(taken) == len(left) == 1


async def test_a_handler_waits_for_its_place_and_leaves_it(url: str) -> None:
    app = App(url, slots=10)
    smtp = Concurrency(2, name="smtp")
    running, most = 0, 0

    @app.task
    async def send(n: int) -> int:
        nonlocal running, most
        async with smtp.of("example.org", wait=SOON):
            running += 1
            most = max(most, running)
            await anyio.sleep(0.002)
            running -= 1
        return n

    async with app:
        await app.defer_many(send.call(n) for n in range(20))
        worked = await run_until_idle(app, raise_failures=True)
        assert app.backend.store is not None
        assert (await app.backend.store.get('limit:smtp:places:"example.org"')).members == frozenset()
    assert [event.end for event in worked.finished] == ["returned"] * 20
    assert most == 2


async def test_one_handler_holds_as_many_places_as_it_enters(url: str) -> None:
    app = App(url)
    api = Concurrency(2, name="api")
    most = running = 0

    @app.task
    async def crawl() -> int:
        async def page() -> None:
            nonlocal running, most
            async with api.of(wait=SOON):
                running += 1
                most = max(most, running)
                await anyio.sleep(0.002)
                running -= 1

        await asyncio.gather(*(page() for _ in range(6)))
        async with api, api:
            return most

    async with app, app.working():
        assert await (await crawl.defer()).result(SOON) == 2


async def test_a_handler_that_finds_no_place_runs_again_later_uncounted(clock: VirtualClock) -> None:
    app = App("memory://")
    gpu = Concurrency(1, name="gpu")
    attempts: list[int] = []

    @app.task(retry=Retry.never())
    async def train(seconds: float) -> None:
        attempts.append(current().attempt)
        async with gpu.of(wait=2):
            await anyio.sleep(seconds)

    async with app, app.working():
        await train.defer(60)
        await clock.advance()
        last = await train.options(timeout=1000).defer(0)
        await clock.advance(minutes=2)
        assert await last.status() == "gone"
    assert set(attempts) == {1}
    assert len(attempts) > 2


async def test_the_place_of_a_dead_worker_is_free_after_a_lease(clock: VirtualClock) -> None:
    app = App("memory://", lease=30)
    gpu = Concurrency(1, name="gpu")

    @app.task
    async def train() -> float:
        async with gpu.of(wait=3600):
            return clock.time()

    async with app:
        assert app.backend.store is not None
        # What a worker that was killed in the middle of a hold leaves behind.
        await app.backend.store.add("limit:gpu:places:", ["receipt/1"], ttl=30, ceiling=1)
        job = await train.defer()
        async with app.working():
            assert 30 <= await job.result(3600) < 31


async def test_a_long_hold_is_renewed_with_the_lease(clock: VirtualClock) -> None:
    app = App("memory://", lease=30)
    gpu = Concurrency(1, name="gpu")
    held: list[tuple[float, float]] = []

    @app.task
    async def train() -> None:
        async with gpu.of(wait=10_000):
            began = clock.time()
            await anyio.sleep(300)
            held.append((began, clock.time()))

    async with app, app.working():
        for _ in range(3):
            await train.defer()
        await clock.advance(hours=1)
    assert len(held) == 3
    assert all(end <= began for (_, end), (began, _) in pairwise(held))


async def test_who_lost_its_place_does_not_go_on_beside_the_new_holder(clock: VirtualClock) -> None:
    app = App("memory://", lease=30)
    gpu = Concurrency(1, name="gpu")
    ends: list[str] = []
    lost = heard(app, PlaceLost)

    @app.task
    async def train() -> None:
        async with gpu:
            try:
                await anyio.sleep(100)
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

    async with app:
        assert app.backend.store is not None
        async with app.working():
            await train.defer()
            await clock.advance(1)
            # As after a stop of the process that was longer than the lease.
            (member,) = (await app.backend.store.get("limit:gpu:places:")).members
            await app.backend.store.add("limit:gpu:places:", [member], ttl=0)
            assert await app.backend.store.add("limit:gpu:places:", ["another"], ttl=1000, ceiling=1)
            await clock.advance(15)
            assert ends == ["cancelled"]
            assert lost == [PlaceLost(limit="gpu")]
            assert (await app.backend.store.get("limit:gpu:places:")).members == {"another"}


async def test_a_job_that_blocks_the_loop_keeps_its_place(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/taskq.db"
    app = App(url, lease=0.6)
    gpu = Concurrency(1, name="gpu")
    taken: list[bool] = []
    blocking, over = threading.Event(), threading.Event()

    async def try_to_take() -> None:
        async with connect(url) as backend:
            assert backend.store is not None
            while not over.is_set():
                taken.append(await backend.store.add("limit:gpu:places:", ["thief"], ttl=60, ceiling=1))
                await asyncio.sleep(0.05)

    def thief() -> None:
        blocking.wait(SOON)
        asyncio.run(try_to_take())

    @app.task
    async def train() -> int:
        async with gpu:
            blocking.set()
            time.sleep(2.0)  # noqa: ASYNC251 - this is what is tested
            over.set()
            return 1

    async with app:
        thread = threading.Thread(target=thief)
        thread.start()
        job = await train.defer()
        await run_until_idle(app)
        assert await job.result(0) == 1
        await asyncio.to_thread(thread.join)
    assert taken
    assert not any(taken)


async def test_it_is_told_what_limits_grant_refuse_and_hold(clock: VirtualClock) -> None:
    app = App("memory://")
    granted, refused, left = heard(app, LimitGranted), heard(app, LimitRefused), heard(app, PlaceLeft)
    taken = heard(app, PlaceTaken)
    gpu = Concurrency(1, name="gpu: the large one")

    @app.task(name="call", limits=RateLimit(2, per=10))
    async def call() -> None: ...

    @app.task(retry=Retry(1, snoozes=0))
    async def train(seconds: float) -> None:
        async with gpu.of("a", wait=5):
            await anyio.sleep(seconds)

    async with app, app.working():
        await app.defer_many(call.call() for _ in range(3))
        await clock.advance(1)
        assert Counter(event.limit for event in granted) == {"call": 2}
        assert [event.limit for event in refused] == ["call"]
        assert 9 < refused[0].after < 11
        await clock.advance(20)
        granted.clear()
        refused.clear()
        await train.defer(4)
        await clock.advance()
        await train.defer(60)
        await clock.advance(5)
        await train.defer(0)
        await clock.advance(1)
        assert len(taken) - len(left) == 1
        await clock.advance(100)
        async with app.limited(gpu.of("a")):
            pass
    assert [event.limit for event in granted] == ["gpu: the large one"] * 3
    assert [round(event.wait) for event in granted] == [0, 4, 0]
    assert [event.limit for event in refused] == ["gpu: the large one"]
    assert [event.limit for event in taken] == ["gpu: the large one"] * 3
    assert len(left) == 3


@pytest.mark.parametrize("slow", ["add", "discard"])
async def test_of_two_places_none_is_forgotten_when_taking_or_leaving_them_is_cut_off(
    clock: VirtualClock, slow: str
) -> None:
    events = Events()
    taken: list[PlaceTaken] = []
    left: list[PlaceLeft] = []
    events.subscribe(PlaceTaken, taken.append)
    events.subscribe(PlaceLeft, left.append)
    one, other = Concurrency(1, name="one"), Concurrency(1, name="other")

    async with connect("memory://") as backend:
        assert backend.store is not None
        store: Store = backend.store

        class Slow:
            """Takes its time for the place that is taken, or left, second and first."""

            get, swap = store.get, store.swap

            async def add(
                self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
            ) -> bool:
                await anyio.sleep(10 if (slow, "other" in key) == ("add", True) else 0)
                return await store.add(key, members, ttl=ttl, ceiling=ceiling)

            async def discard(self, key: str, members: Sequence[str]) -> int:
                await anyio.sleep(10 if (slow, "other" in key) == ("discard", True) else 0)
                return await store.discard(key, members)

        async def hold() -> None:
            async with holding(Slow(), 30.0, events, (one & other) | RateLimit(1, name="direct")):
                pass

        holder = asyncio.create_task(hold())
        await clock.advance(1)
        holder.cancel()
        await asyncio.wait({holder})
        assert holder.cancelled()
        assert len(taken) == (1 if slow == "add" else 2)
        assert len(left) == len(taken)
        assert (await store.get(one.store_key("", ""))).members == set()


async def test_a_servers_retry_after_is_obeyed_by_all(clock: VirtualClock) -> None:
    app = App("memory://")
    api = RateLimit(100, per=1, name="api")
    began: list[float] = []

    @app.task(limits=api)
    async def call(_n: int) -> None:
        began.append(clock.time())
        if clock.time() < 1:
            await api.pause("120")
            raise Snooze(0)

    async with app, app.working():
        await call.defer(1)
        await clock.advance(1)
        await app.defer_many(call.call(n) for n in range(5))
        await clock.advance(minutes=5)
    assert len(began) == 7
    assert began[1] >= 120


async def test_a_call_may_cost_more_than_was_thought(clock: VirtualClock) -> None:
    app = App("memory://")
    shop = RateLimit(50, per=1, kind="points", burst=1000, name="shop")
    began: list[float] = []

    @app.task
    async def query(estimate: float, actual: float) -> None:
        async with shop.of(cost=estimate, wait=60) as points:
            began.append(clock.time())
            await points.settle(actual)

    async with app, app.working(slots=1):
        for estimate, actual in ((500, 1000), (500, 0), (1000, 1000)):
            await query.defer(estimate, actual)
        await clock.advance(minutes=2)
    # 1,000 points were spent at once; 500 are there again after 10 s, were given back, and are 1,000 after 20.
    assert [round(moment) for moment in began] == [0, 10, 20]


@pytest.mark.usefixtures("clock")
async def test_limits_are_entered_together_and_left_together() -> None:
    app = App("memory://")
    one, two = Concurrency(1, name="one"), RateLimit(1, per=10, name="two")
    ran: list[str] = []

    @app.task
    async def work() -> None:
        async with one & two:
            ran.append("once")
        with pytest.raises(LimitExceeded):
            async with one & two.of(wait=1):
                raise AssertionError("its turn comes in ten seconds")
        # What was entered before the refusal was left again.
        async with one.of(wait=0):
            ran.append("again")

    async with app:
        await work.defer()
        await run_until_idle(app, raise_failures=True)
    assert ran == ["once", "again"]


async def test_an_app_holds_a_limit_outside_of_jobs(clock: VirtualClock) -> None:
    app = App("memory://", lease=30)
    db = Concurrency(1, name="db")
    async with app:
        assert app.backend.store is not None
        async with app.limited(db.of("main")):
            await clock.advance(minutes=5)
            assert not await app.backend.store.add('limit:db:places:"main"', ["other"], ceiling=1)
        assert await app.backend.store.add('limit:db:places:"main"', ["other"], ceiling=1)
        with pytest.raises(ConfigError, match="inside a running job"):
            async with db:
                pass


async def test_a_limit_without_a_number_limits_nothing(url: str) -> None:
    app = App(url)
    free = RateLimit(float("inf"), name="free")

    @app.task(limits=free)
    async def call() -> None:
        async with free:
            pass

    async with app:
        await call.defer()
        worked = await run_until_idle(app, raise_failures=True)
    assert len(worked.finished) == 1


async def test_a_job_waits_for_its_turn_when_its_worker_died_at_the_wrong_moment(clock: VirtualClock) -> None:
    """A grant, or a turn in the line, that nobody used is a gap; nothing else waits for it."""
    app = App("memory://", lease=5)
    began: list[float] = []

    @app.task(limits=RateLimit(1, per=1))
    async def call() -> None:
        began.append(clock.time())

    async with app:
        await app.defer_many(call.call() for _ in range(10))
        await lose(app, 1)
        async with app.working():
            await clock.advance(minutes=1)
    assert len(began) == 10
    assert began[-1] < 20


async def test_a_key_function_that_raises_is_refused_where_the_call_is_made() -> None:
    app = App("memory://")

    @app.task(limits=RateLimit(1, per=1, key=name_of))
    async def call(user: dict[str, str]) -> None: ...

    @app.task(limits=RateLimit(1, per=1, key=everything_of))
    async def other(user: list[int]) -> None: ...

    async with app:
        with pytest.raises(ConfigError, match=r"key function of a limit raised KeyError: 'name'.*by name \(user\)"):
            await call.defer({})
        with pytest.raises(ConfigError, match=r"answered \[1\]; give text or a number"):
            await other.defer([1])


async def test_a_key_function_of_another_deploy_that_raises_ends_the_job() -> None:
    app, older = App("memory://"), App("memory://")

    @app.task(name="call", limits=RateLimit(1, per=1, key=name_of))
    async def call(user: dict[str, str]) -> None: ...

    @older.task(name="call")
    async def called(user: dict[str, str]) -> None: ...

    async with older:
        job = called.call({}).job
    async with app:
        await app.enqueue(job)
        worked = await run_until_idle(app)
    (finished,) = worked.finished
    assert finished.end == "failed"
    assert "KeyError" in str(worked.failures[0])


async def test_a_place_that_is_left_while_it_is_being_renewed_is_free() -> None:
    async with connect("memory://") as backend:
        assert backend.store is not None
        store: Store = backend.store
        keeper = Keeper(store, 30.0)

        class LeftMeanwhile:
            """The place is left while its renewal is on the way."""

            get, swap, discard = store.get, store.swap, store.discard

            async def add(
                self, key: str, members: Sequence[str], *, ttl: float | None = None, ceiling: int | None = None
            ) -> bool:
                await keeper.free("receipt")
                return await store.add(key, members, ttl=ttl, ceiling=ceiling)

        assert await keeper.take("place", "receipt/1", 1)
        assert await keeper.renew(LeftMeanwhile(), ["receipt"]) == set()
        assert await keeper.take("place", "other/1", 1)
