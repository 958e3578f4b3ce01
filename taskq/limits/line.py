"""What one key of a rate limit holds, and what it answers to those who ask: pure.

Two counts by the same rate: what was *granted*, and how it would go on if everybody in the *line* had his turn. A job
that is refused takes a place at the end of that line and comes back when its turn has come; so however many wait, each
is refused about once. A turn is no grant: it is counted when it is taken, so that a worker that was away, or a job
that came late, grants nothing twice. While anybody may stand in the line, new ones go to its end.
"""

from collections.abc import Sequence
from math import inf

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from taskq.limits.rates import Rate, State

_LEAST = 0.01
"""The share that is always granted."""


class Asked(Struct, frozen=True):
    """What somebody wants of a limit."""

    cost: float = 1.0
    patience: float = 0.0
    """Seconds it would wait where it stands."""
    lines_up: bool = False
    """Whether it takes a place in the line when it is refused."""
    its_turn: bool = False
    """Whether it has stood in the line."""
    within: float = inf
    """Seconds: a place in the line is taken only if its turn comes as soon; later another limit's would be sooner."""
    looks: bool = False
    """Whether it only wants to know: nothing is granted, and no place in the line taken."""


class Answer(Struct, frozen=True):
    """Granted, or not, in so many seconds; for who is in the line: when its turn comes."""

    granted: bool
    wait: float
    moment: float | None = None
    """When it was granted, by the server's clock, if it was."""


class Line(Struct, array_like=True):
    """The value of a key."""

    granted: State = ()
    line: State = ()
    last: float = 0.0
    """When the last one in the line has its turn."""
    paused: float = 0.0
    """Nothing is granted before this moment."""
    slowed: float = 0.0
    """Less is granted before this moment, but more and more."""
    recover: float = 0.0
    """Seconds from nothing to all of it."""

    def ends(self, rate: Rate) -> float:
        """From when on nothing of this matters."""
        return max(rate.ends(self.granted), rate.ends(self.line), self.last, self.paused, self.slowed)

    def share(self, moment: float) -> float:
        """The part of its rate that is granted at this moment."""
        return 1.0 if moment >= self.slowed else max(_LEAST, 1.0 - (self.slowed - moment) / self.recover)

    def pause(self, now: float, until: float, recover: float) -> None:
        """Grant nothing before ``until``, and with ``recover`` half of what it was from then on, and more and more."""
        resumes = max(self.paused, until)
        if recover and resumes > now:
            # Many are told at the same time that it was too much: that is once.
            share = self.share(self.paused) if self.paused > now else self.share(now) / 2
            self.slowed, self.recover = resumes + (1.0 - share) * recover, recover
        self.paused = resumes


def read(value: bytes | None) -> Line:
    """A key's value; an absent one grants everything."""
    return Line() if value is None else msgspec.msgpack.decode(value, type=Line)


def written(line: Line) -> bytes:
    """The bytes of a value."""
    return msgspec.msgpack.encode(line)


def answer(rate: Rate, line: Line, now: float, asked: Sequence[Asked]) -> list[Answer]:
    """Answer everybody in turn, and change the line accordingly."""
    return [_answer(rate, replace(line) if one.looks else line, now, one) for one in asked]


def _answer(rate: Rate, line: Line, now: float, asked: Asked) -> Answer:
    first = max(now, line.paused)
    # What counts for more slows a rate as a smaller number would.
    cost = min(rate.most, asked.cost / line.share(first))
    moment = rate.next(line.granted, first, cost)
    behind = asked.lines_up and not asked.its_turn and line.last > now
    if not behind and moment - now <= asked.patience:
        line.granted = rate.take(line.granted, moment, cost)
        return Answer(True, moment - now, moment)
    if asked.lines_up:
        standing = line.granted if line.last <= now else line.line
        moment = max(moment, rate.next(standing, first, cost))
        if moment - now <= asked.within:
            line.line = rate.take(standing, moment, cost)
            line.last = moment
    return Answer(False, moment - now)
