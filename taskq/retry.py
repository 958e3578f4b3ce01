"""When a failed job runs again: attempts, waiting times, and which errors count. Pure."""

from collections.abc import Callable
from datetime import timedelta
from math import inf, isfinite
from typing import Self

from msgspec import Struct

from taskq.errors import CodecError, ConfigError, Discard, EffectUnknown, Signal

Curve = Callable[[int, float], float]
"""Seconds to wait after a failed attempt (from 1), given a chance in [0, 1)."""

Errors = tuple[type[BaseException], ...]


def full_jitter(first: float = 5.0, cap: float = 10_800.0) -> Curve:
    """Anything from nothing to ``first`` doubled with every attempt, at most ``cap``: retries of many jobs spread.

    The formula is the "full jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """

    def seconds(attempt: int, chance: float) -> float:
        # A float's exponent ends near 2**1024; no cap needs more than 63 doublings.
        return chance * min(cap, first * 2.0 ** min(attempt - 1, 63))

    return seconds


def sidekiq_curve(attempt: int, chance: float) -> float:
    """n⁴ + 15 + a whole number in [0, 10 (n + 1)), n from 0: Sidekiq's published curve, about 20 days in 25 retries."""
    n = attempt - 1
    return n**4 + 15 + int(chance * 10 * (n + 1))


def delayed_job_curve(attempt: int, _chance: float) -> float:
    """5 + n⁴, n from 1: delayed_job's published curve."""
    return 5.0 + attempt**4


def steps(*seconds: float) -> Curve:
    """These waiting times in turn; the last one repeats for ever."""
    if not seconds or not all(isfinite(wait) and wait >= 0 for wait in seconds):
        raise ConfigError("steps() takes one or more waiting times of at least 0 seconds")
    return lambda attempt, _chance: seconds[min(attempt, len(seconds)) - 1]


class Retry(Struct, frozen=True):
    """How often a job may fail, and how long it waits in between.

    The default tries 15 times over about six hours on average and twelve at most. Every ordinary exception counts; a
    worker's death does not (see ``max_losses``), nor does a shutdown, a snooze or a refusal by a limit.
    """

    attempts: int = 15
    """Runs in all; 1 never runs again."""
    curve: Curve = full_jitter()
    """One that raises counts as the default, one that answers no time as 0 seconds."""
    within: float | timedelta = inf
    """Seconds after the first failure beyond which no attempt is added."""
    on: Errors = (Exception,)
    """Errors that are worth another attempt."""
    dead_on: Errors = (CodecError, EffectUnknown)
    """Errors that no attempt can mend: set aside at once."""
    discard_on: Errors = ()
    """Errors that end the job quietly, as ``Discard`` does."""
    decide: Callable[[Exception, int], Signal | None] | None = None
    """Asked first, with the error and the attempt: a signal decides, None leaves it to the rest. Raises: as None."""
    snoozes: int | None = None
    """How often a job may put itself off, or find a limit exhausted, uncounted (``Snooze``, ``LimitExceeded``); from
    then on each counts as an attempt. None: any number of times."""

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or self.attempts < 1:
            raise ConfigError(f"Retry(attempts={self.attempts!r}): a job needs at least one attempt, as a whole number")
        if self.snoozes is not None and (type(self.snoozes) is not int or self.snoozes < 0):
            raise ConfigError(f"Retry(snoozes={self.snoozes!r}): give a whole number of at least 0, or None")

    @classmethod
    def never(cls) -> Self:
        """One attempt."""
        return cls(1)

    @classmethod
    def fixed(cls, attempts: int, seconds: float) -> Self:
        """The same waiting time after each of ``attempts`` runs."""
        return cls(attempts, steps(seconds))

    @classmethod
    def sidekiq(cls) -> Self:
        """Sidekiq's default: 25 retries, which is 26 runs."""
        return cls(26, sidekiq_curve)

    @classmethod
    def delayed_job(cls) -> Self:
        """delayed_job's default: 25 attempts."""
        return cls(25, delayed_job_curve)

    @classmethod
    def aws_full_jitter(cls, attempts: int, *, first: float, cap: float) -> Self:
        """Full jitter with numbers of one's own."""
        return cls(attempts, full_jitter(first, cap))

    def next_delay(self, error: Exception, attempt: int, chance: float, *, failing_for: float) -> float | None:
        """Seconds until the next attempt after ``error`` in ``attempt``, or None when there is none."""
        limit = self.within.total_seconds() if isinstance(self.within, timedelta) else self.within
        if attempt >= self.attempts or isinstance(error, self.dead_on) or not isinstance(error, self.on):
            return None
        try:
            # max() answers its first argument for NaN.
            delay = max(0.0, self.curve(attempt, chance))
        except Exception:  # noqa: BLE001 - a broken curve must not keep the job from being settled
            delay = full_jitter()(attempt, chance)
        return None if failing_for + delay > limit else delay

    def signal_for(self, error: Exception, attempt: int) -> Signal | None:
        """What ``decide`` and ``discard_on`` say of an error, if anything."""
        signal = None
        if self.decide is not None:
            try:
                signal = self.decide(error, attempt)
            except Exception:  # noqa: BLE001 - a broken hook must not change what happens to the job
                signal = None
        if signal is None and isinstance(error, self.discard_on):
            signal = Discard()
        return signal
