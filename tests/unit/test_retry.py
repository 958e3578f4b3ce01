"""Curves against the published tables, and which error does what."""

from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import ConfigError, DecodeError, Discard, RetryIn, Signal, Snooze
from taskq.retry import Curve, Retry, delayed_job_curve, full_jitter, sidekiq_curve, steps

DAY = 86_400.0
CHANCES = st.floats(0, 1, exclude_max=True)


def mean(curve: Curve, attempt: int, samples: int = 1000) -> float:
    return sum(curve(attempt, (n + 0.5) / samples) for n in range(samples)) / samples


# The published curves


@given(st.integers(0, 24), CHANCES)
def test_sidekiq_waits_n4_plus_15_plus_a_whole_number_below_10_times_n_plus_1(n: int, chance: float) -> None:
    jitter = sidekiq_curve(n + 1, chance) - n**4 - 15

    assert jitter == int(jitter)
    assert 0 <= jitter < 10 * (n + 1)


@pytest.mark.parametrize("n", [0, 1, 24])
def test_sidekiq_draws_every_whole_number_alike(n: int) -> None:
    size = 10 * (n + 1)
    drawn = [sidekiq_curve(n + 1, (k + 0.5) / size) - n**4 - 15 for k in range(size)]

    assert drawn == list(range(size))


def test_sidekiq_retries_25_times_over_about_20_days_the_last_gap_about_92_hours() -> None:
    retry = Retry.sidekiq()
    gaps = [mean(retry.curve, attempt) for attempt in range(1, retry.attempts)]

    assert len(gaps) == 25
    assert sum(gaps) / DAY == pytest.approx(20.4, abs=0.05)
    assert gaps[-1] / 3600 == pytest.approx(92, abs=0.5)


def test_delayed_job_waits_5_plus_n4_and_tries_last_about_day_20() -> None:
    retry = Retry.delayed_job()
    gaps = [retry.curve(attempt, 0.5) for attempt in range(1, retry.attempts)]

    assert retry.attempts == 25
    assert gaps[:3] == [6.0, 21.0, 86.0]
    assert sum(gaps) / DAY == pytest.approx(20, abs=0.5)
    assert delayed_job_curve(7, 0.0) == delayed_job_curve(7, 0.99)


# Full jitter


@given(st.integers(1, 10**9), CHANCES, st.floats(0.001, 3600), st.floats(0.001, 10**6))
def test_full_jitter_stays_below_the_doubled_first_and_the_cap(
    attempt: int, chance: float, first: float, cap: float
) -> None:
    seconds = full_jitter(first, cap)(attempt, chance)

    assert 0 <= seconds <= cap
    if attempt < 60:
        assert seconds <= first * 2 ** (attempt - 1)


def test_full_jitter_spreads_over_the_whole_doubled_range() -> None:
    curve = full_jitter(first=2.0, cap=100.0)

    assert [curve(attempt, 0.0) for attempt in (1, 2, 3)] == [0.0, 0.0, 0.0]
    assert [curve(attempt, 0.5) for attempt in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, 50.0]
    assert Retry.aws_full_jitter(3, first=2.0, cap=100.0).curve(9, 0.5) == 50.0


def test_the_default_tries_15_times_over_about_six_hours() -> None:
    retry = Retry()
    longest = [retry.curve(attempt, 0.999999) for attempt in range(1, retry.attempts)]

    assert retry.attempts == 15
    assert sum(longest) / 3600 == pytest.approx(12, abs=1.5)


# Steps


def test_the_last_step_repeats_for_ever() -> None:
    curve = steps(1, 5, 30)

    assert [curve(attempt, 0.7) for attempt in (1, 2, 3, 4, 1000)] == [1, 5, 30, 30, 30]
    assert Retry.fixed(3, 7.0).curve(2, 0.1) == 7.0


@pytest.mark.parametrize("waits", [(), (-1.0,), (1.0, nan), (inf,)])
def test_steps_are_waiting_times(waits: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="at least 0 seconds"):
        steps(*waits)


# Which error does what


def delay_of(retry: Retry, error: Exception, attempt: int = 1, failing_for: float = 0.0) -> float | None:
    return retry.next_delay(error, attempt, 0.5, failing_for=failing_for)


def test_the_last_attempt_is_followed_by_none() -> None:
    retry = Retry(3, steps(1))

    assert delay_of(retry, ValueError(), attempt=2) == 1
    assert delay_of(retry, ValueError(), attempt=3) is None
    assert delay_of(Retry.never(), ValueError()) is None


@pytest.mark.parametrize("within", [10.0, timedelta(seconds=10)])
def test_no_attempt_is_added_beyond_within(within: float | timedelta) -> None:
    retry = Retry(99, steps(4), within=within)

    assert delay_of(retry, ValueError(), failing_for=6.0) == 4
    assert delay_of(retry, ValueError(), failing_for=6.5) is None


def test_errors_that_are_not_on_the_list_are_not_retried() -> None:
    retry = Retry(on=(OSError,))

    assert delay_of(retry, ConnectionError()) is not None
    assert delay_of(retry, ValueError()) is None


def test_errors_that_no_attempt_can_mend_are_not_retried() -> None:
    assert delay_of(Retry(dead_on=(KeyError,)), KeyError()) is None
    assert delay_of(Retry(), DecodeError()) is None


def test_discard_on_ends_the_job_quietly() -> None:
    retry = Retry(discard_on=(LookupError,))

    assert isinstance(retry.signal_for(KeyError("gone"), 1), Discard)
    assert retry.signal_for(ValueError(), 1) is None


def test_the_hook_is_asked_first_and_none_leaves_it_to_the_rest() -> None:
    def hook(error: Exception, attempt: int) -> Signal | None:
        return RetryIn(attempt * 10) if isinstance(error, TimeoutError) else None

    retry = Retry(discard_on=(OSError,), decide=hook)
    signal = retry.signal_for(TimeoutError(), 3)

    assert isinstance(signal, RetryIn)
    assert signal.after == 30
    assert isinstance(retry.signal_for(ConnectionError(), 3), Discard)


def test_a_hook_that_raises_decides_nothing() -> None:
    def hook(_error: Exception, _attempt: int) -> Signal | None:
        raise ZeroDivisionError

    assert Retry(decide=hook).signal_for(ValueError(), 1) is None
    assert isinstance(Retry(decide=hook, discard_on=(ValueError,)).signal_for(ValueError(), 1), Discard)


def test_a_curve_that_raises_counts_as_the_default() -> None:
    def broken(_attempt: int, _chance: float) -> float:
        raise ZeroDivisionError

    assert delay_of(Retry(curve=broken), ValueError(), attempt=2) == full_jitter()(2, 0.5)


@pytest.mark.parametrize("answer", [-5.0, nan])
def test_a_curve_that_answers_no_time_means_at_once(answer: float) -> None:
    assert delay_of(Retry(curve=lambda _attempt, _chance: answer), ValueError()) == 0.0


@pytest.mark.parametrize("attempts", [0, -1, True, 2.5, "3"])
def test_attempts_are_a_whole_number_of_at_least_one(attempts: int) -> None:
    with pytest.raises(ConfigError, match="at least one attempt"):
        Retry(attempts)


@pytest.mark.parametrize("snoozes", [-1, 1.5, True, "many"])
def test_a_number_of_snoozes_that_is_none_is_refused(snoozes: Any) -> None:
    with pytest.raises(ConfigError, match="whole number of at least 0, or None"):
        Retry(snoozes=snoozes)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120.0),
        (7, 7.0),
        (timedelta(minutes=2), 120.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        (datetime(2015, 10, 21, tzinfo=UTC), 0.0),
    ],
)
def test_a_signal_takes_what_a_server_says(said: Any, seconds: float) -> None:
    assert Snooze(said).after == RetryIn(said).after == seconds


def test_a_moment_to_come_is_so_many_seconds_from_now() -> None:
    moment = datetime.now(UTC) + timedelta(hours=1)
    header = moment.astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S")
    for said in (moment, f"{header} GMT", f"{header} -0000"):
        assert 3000 < Snooze(said).after <= 3600


@pytest.mark.parametrize("said", ["soon", "-5", -1, float("nan"), float("inf"), None])
def test_a_delay_that_is_none_is_refused(said: Any) -> None:
    with pytest.raises(
        ValueError, match="give seconds of at least 0, a timedelta, a datetime, or a Retry-After header"
    ):
        Snooze(said)
