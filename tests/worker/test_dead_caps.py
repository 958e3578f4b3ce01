"""A queue's dead letters stay within their caps, and nothing is dropped in silence."""

from collections.abc import Sequence
from math import inf
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from taskq import App, JobHandle
from taskq.errors import ConfigError, MissingCapability
from taskq.events import DeadLettersDropped
from taskq.job import JobRef
from taskq.worker.undertaker import Caps, Letter, too_many, undertaker_of
from tests.worker.moves import SOON, heard

pytestmark = pytest.mark.anyio


def failing(app: App) -> None:
    @app.task(name="fail", retry=1, queue="sick")
    async def fail(text: str) -> None:
        raise RuntimeError(text)

    @app.task(name="other", retry=1, queue="other")
    async def other() -> None:
        raise RuntimeError


async def dead_of(app: App, queue: str) -> Sequence[str]:
    return [record.job.id for record in await app.admin.list_jobs(queue, "dead", after=None, limit=1000)]


async def until_dead(
    app: App, queue: str, dropped: Sequence[DeadLettersDropped], jobs: int, most: int
) -> Sequence[str]:
    """What is left when so many have died or been dropped, and no more than so many are kept."""
    with anyio.fail_after(SOON):
        while True:
            left = await dead_of(app, queue)
            if len(left) <= most and len(left) + sum(one.jobs for one in dropped) == jobs:
                return left
            await anyio.sleep(0.01)


async def test_of_too_many_dead_letters_the_oldest_are_dropped_and_told_of(url: str) -> None:
    app = App(url, slots=1, dead_count=10)
    failing(app)
    dropped = heard(app, DeadLettersDropped)
    fail, other = app.find_task("fail"), app.find_task("other")
    async with app, app.working():
        aside = await other.defer()
        # Ids of one's own, which do not rise with time; and one at a time, as those of one settlement are of one age.
        jobs: list[JobHandle[Any]] = []
        left: Sequence[str] = ()
        for n in range(25):
            jobs.append(await fail.options(id=f"{97 * n % 25:02}").defer(str(n)))
            left = await until_dead(app, "sick", dropped, n + 1, 10)
        assert sorted(left) == sorted(job.id for job in jobs[-len(left) :])
        assert len(left) >= 9
        assert await until_dead(app, "other", [], 1, 1) == [aside.id]
        assert {one.queue for one in dropped} == {"sick"}
        assert await app.lookup(JobRef("sick", jobs[0].id)) is None


async def test_of_too_large_dead_letters_the_oldest_are_dropped(url: str) -> None:
    app = App(url, slots=1, dead_size=50_000)
    failing(app)
    dropped = heard(app, DeadLettersDropped)
    fail = app.find_task("fail")
    async with app, app.working():
        jobs = [await fail.defer("x" * 10_000) for _ in range(12)]
        # Of each the call has 10,000 bytes, and so has the error that it quotes.
        left = await until_dead(app, "sick", dropped, 12, 2)
        assert left == [job.id for job in jobs[-len(left) :]]
        assert all(one.size >= one.jobs * 20_000 for one in dropped)


async def test_caps_need_a_broker_whose_dead_letters_can_be_looked_at() -> None:
    app = App("memory://")
    async with app:
        blind = replace(app.backend, admin=None)
        with pytest.raises(MissingCapability, match=r"dead_count and dead_size .* pair it with a companion store"):
            undertaker_of(blind, app.events, Caps(count=5))
        assert undertaker_of(blind, app.events, Caps()) is None


@pytest.mark.parametrize("value", [0, -1, 1.5, "many"])
def test_a_cap_that_makes_no_sense_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="dead_count"):
        App("memory://", dead_count=value)
    with pytest.raises(ConfigError, match="dead_size"):
        App("memory://", dead_size=value)


@pytest.mark.parametrize(
    ("caps", "dropped"),
    [
        (Caps(), 0),
        (Caps(count=20), 0),
        (Caps(count=19), 2),
        (Caps(count=3), 17),
        (Caps(size=2000.0), 0),
        (Caps(size=1999.0), 2),
        (Caps(size=50.0), 20),
        (Caps(count=inf, size=1000.0), 11),
        (Caps(count=10, size=500.0), 16),
    ],
)
def test_what_is_too_much_goes_down_to_nine_tenths_of_the_cap(caps: Caps, dropped: int) -> None:
    letters = [Letter(float(n), str(n), 100) for n in range(20)]
    assert list(too_many(letters, caps)) == letters[:dropped]
