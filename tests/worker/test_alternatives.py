"""``a | b``: the first limit that has room, else the sooner one; one of them counts, and it is known which."""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from math import inf
from typing import Any

import anyio
import pytest

from taskq import App, Concurrency, RateLimit, Snooze, current
from taskq.errors import ConfigError, JobDiscarded, LimitExceeded
from taskq.events import JobAgain, JobFinished
from taskq.limits.keeper import Keeper
from taskq.limits.line import Answer, Asked
from taskq.limits.rates import Rate
from taskq.limits.several import Both
from taskq.retry import Retry
from taskq.testing import VirtualClock
from tests.worker.moves import SOON, heard, wait_until
from tests.worker.test_limits import most_within

pytestmark = pytest.mark.anyio

KEY_A = RateLimit(3, per=10, name="a")
KEY_B = RateLimit(2, per=10, name="b")
PROXY = Concurrency(1, name="proxy", overlap="skip")

Began = defaultdict[str, list[float]]


async def test_a_handler_is_told_which_key_has_room_and_each_counts_by_itself(clock: VirtualClock) -> None:
    app = App("memory://", slots=50)
    began: Began = defaultdict(list)

    @app.task
    async def call(_n: int) -> None:
        key_a, key_b = KEY_A.of(wait=1000), KEY_B.of(wait=1000)
        async with key_a | key_b as granted:
            began["a" if granted is key_a else "b"].append(clock.time())

    async with app, app.working():
        await app.defer_many(call.call(n) for n in range(25))
        await clock.advance(minutes=5)
    assert (len(began["a"]), len(began["b"])) == (15, 10)
    assert most_within(began["a"], 10) == 3
    assert most_within(began["b"], 10) == 2
    # Five in ten seconds: none was granted twice.
    assert max(began["a"] + began["b"]) < 41


async def test_the_sooner_one_is_waited_for_and_a_place_that_frees_before(clock: VirtualClock) -> None:
    app = App("memory://")
    soon, late = RateLimit(1, per=3, name="soon"), RateLimit(1, per=4, name="late")
    used: list[tuple[object, float]] = []

    @app.task
    async def call(seconds: float) -> None:
        async with late | soon | PROXY as granted:
            used.append((granted, clock.time()))
            await anyio.sleep(seconds)

    async with app, app.working():
        for seconds in (0, 0, 1.5, 0, 0, 0):
            await call.defer(seconds)
            await clock.advance()
        await clock.advance(10)
    assert [granted for granted, _ in used[:3]] == [late, soon, PROXY]
    assert Counter(granted for granted, _ in used) == {late: 1, soon: 1, PROXY: 4}
    assert all(1.5 <= at < 3 for _, at in used[3:])


async def test_who_waits_for_either_is_not_passed_by_all_who_wait_for_one(clock: VirtualClock) -> None:
    app = App("memory://", slots=100)
    rare = RateLimit(1, per=100, name="rare")
    seen: list[str] = []

    @app.task
    async def single(_n: int) -> None:
        async with KEY_B.of(wait=1000):
            seen.append("single")

    @app.task
    async def either() -> None:
        async with rare.of(wait=50) | KEY_B.of(wait=1000):
            seen.append("either")

    async with app, app.working():
        await app.defer_many(single.call(n) for n in range(10))
        await clock.advance()
        await either.defer()
        await either.defer()
        await clock.advance()
        await app.defer_many(single.call(n) for n in range(40))
        await clock.advance(minutes=10)
    assert [at for at, who in enumerate(seen) if who == "either"] == [2, 11]


async def test_a_task_is_counted_by_the_key_that_has_room_or_the_sooner_one(clock: VirtualClock) -> None:
    app = App("memory://", slots=20)
    again = heard(app, JobAgain)
    began: Began = defaultdict(list)

    @app.task(limits=KEY_A | KEY_B)
    async def call(_n: int) -> None:
        (name,) = [key.name for key in (KEY_A, KEY_B) if key in current().granted]
        assert name is not None
        began[name].append(clock.time())

    async with app, app.working(), app.working():
        await app.defer_many(call.call(n) for n in range(250))
        await clock.advance(minutes=20)
    assert (len(began["a"]), len(began["b"])) == (150, 100)
    assert most_within(began["a"], 10) == 3
    assert most_within(began["b"], 10) == 2
    assert max(began["a"] + began["b"]) <= 500 * 1.03
    assert len(again) <= 2 * 250


async def test_all_who_come_at_once_do_not_stand_in_the_line_of_the_first(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Keeper.ask

    async def slow(keeper: Keeper, rate: Rate, key: str, asked: Asked) -> Answer:
        # So all have looked before the first one asks, as on a server.
        await anyio.sleep(0.01)
        return await ask(keeper, rate, key, asked)

    monkeypatch.setattr(Keeper, "ask", slow)
    app = App("memory://", slots=100)
    began: Began = defaultdict(list)

    @app.task(limits=KEY_A | KEY_B)
    async def call(_n: int) -> None:
        began["a" if KEY_A in current().granted else "b"].append(clock.time())

    async with app, app.working():
        await app.defer_many(call.call(n) for n in range(100))
        await clock.advance(minutes=10)
    # Five in ten seconds.
    assert (len(began["a"]), len(began["b"])) == (60, 40)
    assert max(began["a"] + began["b"]) <= 195 * 1.03


async def test_keys_pause_apart(clock: VirtualClock) -> None:
    app = App("memory://")
    began: Began = defaultdict(list)

    @app.task(limits=KEY_A | KEY_B)
    async def call(_n: int) -> None:
        name = "a" if KEY_A in current().granted else "b"
        began[name].append(clock.time())
        if name == "a" and clock.time() < 1:
            await KEY_A.pause("100")
            raise Snooze(0)

    async with app, app.working():
        await app.defer_many(call.call(n) for n in range(10))
        await clock.advance(minutes=5)
    # What was granted before the pause, and what came after it.
    assert not [at for at in began["a"] if 1 < at < 100]
    assert len([at for at in began["b"] if at < 100]) >= 8


def quotas(name: str) -> tuple[RateLimit, RateLimit]:
    """Of a key: one a second, and five an hour."""
    return RateLimit(1, per=1, name=f"{name}/s"), RateLimit(5, per=3600, name=f"{name}/h")


async def test_all_quotas_of_one_key_or_all_of_the_other_and_what_all_share(clock: VirtualClock) -> None:
    app = App("memory://", slots=20)
    a, b, everybody = quotas("a"), quotas("b"), RateLimit(1, per=0.1, name="all")
    began: Began = defaultdict(list)

    @app.task(limits=((a[0] & a[1]) | (b[0] & b[1])) & everybody)
    async def call(_n: int) -> None:
        assert len(current().granted) == 3
        assert everybody in current().granted
        began["a" if a[0] in current().granted else "b"].append(clock.time())

    async with app, app.working(), app.working():
        await app.defer_many(call.call(n) for n in range(40))
        await clock.advance(minutes=30)
    # What one quota grants is not used up when the other refuses.
    assert (len(began["a"]), len(began["b"])) == (5, 5)
    assert most_within(began["a"], 1) == most_within(began["b"], 1) == 1


async def test_a_handler_enters_all_quotas_of_one_key_or_all_of_the_other(clock: VirtualClock) -> None:
    app = App("memory://", slots=20)
    began: Began = defaultdict(list)

    def all_of(name: str) -> Both:
        second, hour = quotas(name)
        return second.of(wait=60) & hour.of(wait=60)

    @app.task(retry=Retry(1, snoozes=0))
    async def call(_n: int) -> None:
        a, b = all_of("a"), all_of("b")
        async with PROXY.of(wait=60) & (a | b) as (_, key):
            began["a" if key == tuple(a.parts) else "b"].append(clock.time())

    async with app, app.working():
        await app.defer_many(call.call(n) for n in range(15))
        await clock.advance(minutes=30)
        assert app.backend.store is not None
        assert (await app.backend.store.get("limit:proxy:places:")).members == frozenset()
    assert (len(began["a"]), len(began["b"])) == (5, 5)
    assert most_within(began["a"], 1) == most_within(began["b"], 1) == 1


async def test_of_several_limits_none_is_used_up_when_one_refuses(clock: VirtualClock) -> None:
    app = App("memory://", slots=100)
    began: list[float] = []

    @app.task(limits=[RateLimit(5, per=1), RateLimit(100, per=3600), Concurrency(50, overlap="skip")])
    async def call(_n: int) -> None:
        began.append(clock.time())

    async with app, app.working(), app.working():
        await app.defer_many(call.call(n) for n in range(120))
        await clock.advance(minutes=50)
    # The hour's quota is not gone in its first second, with what the second's refuses.
    assert len(began) == 100
    assert most_within(began, 1) == 5


async def test_a_task_is_skipped_when_no_place_of_any_is_free(url: str) -> None:
    app = App(url)
    one, other = (Concurrency(1, name=name, overlap="skip") for name in ("one", "other"))
    gate, used, ends = anyio.Event(), list[object](), heard(app, JobFinished)

    @app.task(limits=one | other, keep=60)
    async def call() -> None:
        used.extend(current().granted)
        await gate.wait()

    async with app, app.working():
        jobs = [await call.defer() for _ in range(3)]
        await wait_until(lambda: len(used) == 2 and ends)
        gate.set()
        outcomes = await asyncio.gather(*(job.result(SOON) for job in jobs), return_exceptions=True)
        await (await call.defer()).result(SOON)
    assert Counter(map(type, outcomes)) == {JobDiscarded: 1, type(None): 2}
    assert sorted([limit.name for limit in used[:2] if isinstance(limit, Concurrency)], key=str) == ["one", "other"]
    assert len(used) == 3


async def test_a_place_or_a_fallback(url: str) -> None:
    app = App(url)
    gate, used = anyio.Event(), list[str]()
    open_to_all = RateLimit(inf, name="direct")

    @app.task(keep=60)
    async def fetch() -> None:
        async with PROXY | open_to_all as granted:
            used.append(granted.name or "")
            if granted is PROXY:
                await gate.wait()

    async with app, app.working():
        first = await fetch.defer()
        await wait_until(lambda: used == ["proxy"])
        await (await fetch.defer()).result(SOON)
        gate.set()
        await first.result(SOON)
        await (await fetch.defer()).result(SOON)
    assert used == ["proxy", "direct", "proxy"]


async def test_either_is_entered_outside_of_jobs_too(url: str) -> None:
    first_key, last_key = (RateLimit(1, per=86_400, name=name) for name in ("first", "last"))
    async with App(url) as app:
        async with app.limited(PROXY | first_key) as first, app.limited(PROXY | first_key) as second:
            assert (first, second) == (PROXY, first_key)
        async with app.limited((first_key | last_key) & PROXY) as (key, proxy):
            assert (key, proxy) == (last_key, PROXY)
        says = r"limit:last:.*its turn comes in .*; limit:proxy:places:: its 1 places are taken"
        with pytest.raises(LimitExceeded, match=says):
            async with app.limited(PROXY), app.limited(last_key | PROXY.of(wait=0)):
                pass


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Concurrency(1, name="a") | KEY_B, "give it overlap='skip', or enter the limits in the handler"),
        (RateLimit(9, name="a", retries=True) | KEY_B, "a budget of retries is no alternative to another limit"),
        (RateLimit(5) | RateLimit(9), "two limits of an | would count as one: give each a name="),
        (KEY_A | KEY_B | KEY_A, "names the same limit twice"),
        (KEY_A | KEY_B.of(), "is no limit of a task: give RateLimit and Concurrency as they are, without of()"),
        ([KEY_A, KEY_B.of()], "without of()"),
    ],
)
def test_alternatives_that_make_no_sense_on_a_task_are_refused(limits: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        App("memory://").task(limits=limits)(fetch)


async def fetch() -> None: ...


def test_only_limits_are_combined() -> None:
    other: Any = 5
    combining: list[Callable[[], object]] = [
        lambda: KEY_A & other,
        lambda: KEY_A | other,
        lambda: KEY_A & KEY_B | other,
    ]
    for combine in combining:
        with pytest.raises(ConfigError, match=r"5 is no limit: combine RateLimit and Concurrency by & and \|"):
            combine()
    all_of: list[object] = [*(KEY_A & (KEY_B & PROXY)).parts]
    any_of: list[object] = [*((KEY_A | KEY_B) | PROXY).parts]
    assert all_of == any_of == [KEY_A, KEY_B, PROXY]
