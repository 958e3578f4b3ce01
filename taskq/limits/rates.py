"""How many in which time: three ways to count, as pure functions of a small state and the server's clock.

A state is a tuple of numbers, ``()`` when nothing was granted lately. ``next`` says when so many more may be granted,
``take`` grants them then, ``ends`` says from when on the state says no more than ``()`` does. Grants may lie in the
future, and each is no earlier than the one before. ``give_back`` takes one back that was not used,
and never more than that.
"""

from math import floor
from typing import Protocol

from msgspec import Struct

State = tuple[float, ...]

PARTS = 64
"""Of a sliding window: grants are counted by the part they fall in, and count until their whole part is over. So a
window never holds more than its limit, and at worst 1/64 less."""

_SLACK = 1e-6
"""Seconds by which a boundary may be missed: a float of an epoch is exact to a quarter of that."""


class Rate(Protocol):
    """A way to count."""

    @property
    def most(self) -> float:
        """What can be granted at once."""
        ...

    def next(self, state: State, now: float, cost: float) -> float: ...
    def take(self, state: State, moment: float, cost: float) -> State: ...
    def give_back(self, state: State, moment: float, now: float, cost: float) -> State: ...
    def ends(self, state: State) -> float: ...


class Leaky(Struct, frozen=True):
    """A bucket of ``size`` that drains by one every ``interval`` seconds: one moment, when it will be empty (GCRA)."""

    size: float
    interval: float

    @property
    def most(self) -> float:
        return self.size

    def next(self, state: State, now: float, cost: float) -> float:
        return max(now, state[0] - (self.size - cost) * self.interval) if state else now

    def take(self, state: State, moment: float, cost: float) -> State:
        return (max(moment, *state) + cost * self.interval,) if state else (moment + cost * self.interval,)

    def give_back(self, state: State, moment: float, now: float, cost: float) -> State:
        # What has drained since cannot be given back: others may have been granted in its stead.
        left = max(0.0, cost * self.interval - max(0.0, now - moment))
        return (state[0] - left,) if state else state

    def ends(self, state: State) -> float:
        return state[0] if state else 0.0


class Bucket(Struct, frozen=True):
    """``n`` in each period of the clock, as a minute from :00 to :00: the period, and how many were granted in it."""

    n: float
    per: float

    @property
    def most(self) -> float:
        return self.n

    def next(self, state: State, now: float, cost: float) -> float:
        if not state or self._period(now) > state[0]:
            return now
        period, taken = state
        return max(now, period * self.per) if taken + cost <= self.n else (period + 1) * self.per

    def take(self, state: State, moment: float, cost: float) -> State:
        period = self._period(moment)
        return (period, state[1] + cost) if state and state[0] == period else (period, cost)

    def give_back(self, state: State, moment: float, now: float, cost: float) -> State:  # noqa: ARG002
        return (state[0], max(0.0, state[1] - cost)) if state and state[0] == self._period(moment) else state

    def ends(self, state: State) -> float:
        return (state[0] + 1) * self.per if state else 0.0

    def _period(self, moment: float) -> float:
        return float(floor((moment + _SLACK) / self.per))


class Window(Struct, frozen=True):
    """``n`` in any ``per`` seconds: the last moment granted, then each part of the window and how many it holds."""

    n: float
    per: float

    @property
    def most(self) -> float:
        return self.n

    def next(self, state: State, now: float, cost: float) -> float:
        moment = max(now, state[0]) if state else now
        while True:
            counting = self._counting(state, moment)
            if sum(counting.values()) + cost <= self.n:
                return moment
            moment = (min(counting) + PARTS + 1) * self.per / PARTS

    def take(self, state: State, moment: float, cost: float) -> State:
        counting = self._counting(state, moment)
        part = self._part(moment)
        counting[part] = counting.get(part, 0.0) + cost
        return (moment, *(number for pair in counting.items() for number in pair))

    def give_back(self, state: State, moment: float, now: float, cost: float) -> State:  # noqa: ARG002
        own = self._part(moment)
        parts = zip(state[1::2], state[2::2], strict=True)
        return (*state[:1], *(number for part, count in parts for number in (part, count - cost * (part == own))))

    def ends(self, state: State) -> float:
        return (state[-2] + PARTS + 1) * self.per / PARTS if state else 0.0

    def _counting(self, state: State, moment: float) -> dict[float, float]:
        """The parts that lie in the window before this moment, oldest first."""
        first = self._part(moment) - PARTS
        return {part: count for part, count in zip(state[1::2], state[2::2], strict=True) if part >= first}

    def _part(self, moment: float) -> float:
        return float(floor((moment + _SLACK) * PARTS / self.per))
