"""What may be declared as a limit, and what it counts by."""

from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any

import pytest

from taskq import App, Concurrency, RateLimit
from taskq.codec import Codec
from taskq.errors import ConfigError
from taskq.limits.declared import check_limits, key_text

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"n": 0}, "at least 1"),
        ({"n": -1}, "at least 1"),
        ({"n": nan}, "at least 1"),
        ({"n": 0.5}, "at least 1"),
        ({"n": "10"}, "at least 1"),
        ({"n": 1, "per": 0}, "seconds of at least 0.01"),
        ({"n": 1, "per": inf}, "seconds of at least 0.01"),
        ({"n": 1, "per": timedelta(0)}, "seconds of at least 0.01"),
        ({"n": 1, "kind": "sliding"}, "choose 'window', 'bucket', 'leaky' or 'points'"),
        ({"n": 1, "burst": 5}, "for kinds leaky and points"),
        ({"n": 1, "kind": "leaky", "burst": 0}, "for kinds leaky and points"),
        ({"n": 1, "key": "customer"}, "a tuple of argument names, or a function"),
        ({"n": 1, "key": ()}, "a tuple of argument names, or a function"),
        ({"n": 1, "name": ""}, "text of 1 to 100 characters"),
        ({"n": 1, "retries": 5}, "True for a budget of retries"),
        ({"n": 10, "recover": 0}, "seconds above 0"),
        ({"n": 10, "recover": "soon"}, "seconds above 0"),
        ({"n": 1, "recover": 60}, "one at a time cannot be halved: say RateLimit"),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RateLimit(**given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"n": 0}, "at least 1"),
        ({"n": 1.5}, "at least 1"),
        ({"n": 1, "overlap": "drop"}, "choose 'wait' or 'skip'"),
        ({"n": 1, "key": ["a"]}, "a tuple of argument names"),
    ],
)
def test_a_concurrency_that_makes_no_sense_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Concurrency(**given)


def test_a_limit_that_is_entered_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="needs a name="):
        RateLimit(1).of()
    with pytest.raises(ConfigError, match="needs a name="):
        Concurrency(1).of("x")


def test_a_budget_of_retries_cannot_be_entered() -> None:
    with pytest.raises(ConfigError, match="is for limits= of a task"):
        RateLimit(10, name="api", retries=True).of()


def test_a_call_that_costs_more_than_can_ever_be_granted_is_refused() -> None:
    with pytest.raises(ConfigError, match="grants at most 10 at once"):
        RateLimit(10, kind="points", name="api").of(cost=11)


@pytest.mark.parametrize("given", ["soon", "-5", -1, nan])
async def test_a_retry_after_that_cannot_be_read_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="give seconds"):
        await RateLimit(10, name="api").pause(given)


async def test_only_points_can_be_settled() -> None:
    with pytest.raises(ConfigError, match="kind points or leaky"):
        await RateLimit(10, name="api").of().settle(3)


def test_a_key_is_made_of_a_tasks_own_arguments() -> None:
    app = App("memory://")
    with pytest.raises(ConfigError, match=r"limit's key is made of 'shop', none of its arguments \(customer\)"):

        @app.task(limits=RateLimit(1, key=("shop",)))
        async def call(customer: str) -> None: ...

    with pytest.raises(ConfigError, match="cannot have a group="):

        @app.task(limits=Concurrency(1), group="all")
        async def other() -> None: ...


def test_the_same_value_is_the_same_key_however_it_is_said() -> None:
    codec = Codec()
    known = {"shop": 7, "at": datetime(2026, 1, 1, tzinfo=UTC)}
    by_name = RateLimit(1, key=("shop",), name="api")

    def shop_of(shop: int, **_: object) -> int:
        return shop

    by_function = RateLimit(1, key=shop_of, name="api")
    assert key_text(by_name, "t", known, codec) == key_text(by_function, "t", known, codec) == "7"
    assert key_text(RateLimit(1), "t", known, codec) == ""
    assert key_text(Concurrency(1, key=("at", "shop")), "t", known, codec) == '"2026-01-01T00:00:00Z",7'
    assert len(key_text(Concurrency(1, key=("a",)), "t", {"a": "x" * 500}, codec)) == 64


def test_the_slowest_limit_is_asked_first() -> None:
    fast, slow, places = RateLimit(100, per=1), RateLimit(10, per=60), Concurrency(1)
    assert check_limits([fast, places, slow]) == (slow, fast, places)
    assert check_limits(fast) == (fast,)
