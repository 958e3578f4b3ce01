"""Offsets of calls that are spread: even, the same each time, and refused where they make no sense."""

from collections.abc import Mapping
from datetime import timedelta
from itertools import islice, pairwise
from typing import Any

import pytest

from taskq import Spread
from taskq.errors import ConfigError
from taskq.job import Job
from taskq.spread import later


def test_by_a_rate_calls_follow_one_another() -> None:
    assert list(islice(Spread(rate=50).offsets(), 4)) == pytest.approx([0.0, 0.02, 0.04, 0.06])


@pytest.mark.parametrize("calls", [2, 3, 10, 1000, 12_345])
def test_over_a_time_any_number_of_calls_is_spread_evenly(calls: int) -> None:
    moments = sorted(islice(Spread(over=timedelta(minutes=1)).offsets(), calls))
    gaps = [after - before for before, after in pairwise([*moments, 60.0])]
    assert moments[0] == 0.0
    # Even would be 60 / calls.
    assert min(gaps) > 0
    assert max(gaps) < 2.7 * 60 / calls


def test_the_same_calls_are_spread_the_same_way() -> None:
    spread = Spread(over=60)
    assert list(islice(spread.offsets(), 100)) == list(islice(spread.offsets(), 100))


@pytest.mark.parametrize(
    "given",
    [
        *({}, {"over": 1, "rate": 1}, {"over": 0}, {"over": timedelta(0)}, {"over": "1m"}),
        *({"rate": value} for value in (-1, True, 10**400, float("inf"), float("nan"))),
    ],
    ids=str,
)
def test_a_spread_that_makes_no_sense_is_refused(given: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Spread"):
        Spread(**given)


def test_it_is_counted_from_the_jobs_own_moment() -> None:
    job = Job(id="a", task="t", body=b"")
    assert later(job, 0.0) is job
    assert later(Job(id="a", task="t", body=b"", delay=5), 2).delay == 7
    dated = later(Job(id="a", task="t", body=b"", run_at=100.0), 2)
    assert (dated.run_at, dated.delay) == (102.0, 0.0)
