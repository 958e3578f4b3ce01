"""What is known of a schedule, and what follows from that at a moment. Pure: whoever asks carries it out."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import inf
from typing import Literal

import msgspec
from msgspec import Struct

from taskq.schedule import GRACE, MOST, Schedule, Timetable, job_id
from taskq.timing import passed

Verdict = Literal["fired", "skipped", "missed", "refused", "run", "paused", "resumed"]
Standings = Mapping[str, Literal["live", "dead"]]
"""Those of a schedule's jobs that have not ended, or lie dead."""

KEPT = 100
"""Decisions remembered of each schedule."""
_LIVE = 10
"""Jobs of a schedule that are remembered as perhaps unfinished."""


class Decided(Struct, frozen=True, omit_defaults=True):
    """What was decided about a tick, or about several missed ones."""

    at: float
    """By the backend's clock, as all moments."""
    verdict: Verdict
    tick: float
    reason: str = ""
    until: float | None = None
    """The last of several ticks."""
    count: int = 1
    """How many; 0: more than were counted."""
    by: str = ""
    """Who, where it was done by hand and they were named."""


class Pending(Struct, frozen=True, omit_defaults=True):
    """A tick that was decided to fire, and that nobody has yet said is enqueued."""

    tick: float
    since: float
    cancel: tuple[str, ...] = ()
    """Jobs to be cancelled first."""
    queued: bool = False
    """Whether its job is to wait for an earlier one."""


class State(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a schedule; changed as a whole."""

    last: float
    """Decided about up to here."""
    timing: str
    """Which timing that was."""
    paused: bool = False
    pending: tuple[Pending, ...] = ()
    jobs: tuple[str, ...] = ()
    """Its newest jobs; most have ended."""
    history: tuple[Decided, ...] = ()
    """The newest last."""

    def noting(self, *decided: Decided) -> tuple[Decided, ...]:
        """The history with these, too."""
        return (*self.history, *decided)[-KEPT:]

    def knowing(self, *jobs: str) -> tuple[str, ...]:
        """The newest jobs with these, too."""
        return (*self.jobs, *jobs)[-_LIVE:]


def begun(schedule: Schedule, now: float) -> State:
    """The state of a schedule that nobody has seen before: what would have been due earlier is not."""
    return State(last=now, timing=_fingerprint(schedule))


def up_to_date(schedule: Schedule, state: State, now: float) -> State:
    """The same, unless the timing is a new one: then its ticks of long ago were never due.

    Those of the last minute count: while a deploy goes on, workers of two versions change it to and fro.
    """
    fingerprint = _fingerprint(schedule)
    if state.timing == fingerprint:
        return state
    return msgspec.structs.replace(state, timing=fingerprint, last=max(state.last, now - GRACE))


def is_due(schedule: Schedule, state: State, now: float) -> bool:
    """Whether there is a tick to decide about."""
    return bool(passed(schedule.timetable.timing, state.last, now, 1)[0])


def decide(schedule: Schedule, state: State, now: float, standing: Standings) -> tuple[State, list[Decided]]:
    """The state in which everything due by ``now`` is decided about, knowing how its jobs stand; and how it was."""
    timetable = schedule.timetable
    due, more = passed(timetable.timing, state.last, now, MOST)
    if not due:
        return state, []
    if state.paused:
        return msgspec.structs.replace(state, last=due[-1]), []
    made_up = timetable.limit if timetable.misfire == "all" else 1
    firing = [tick for tick in due[-made_up:] if now - tick <= timetable.grace]
    decided = _missed(due[: len(due) - len(firing)], more, timetable, now)
    coming = {job_id(schedule.name, pending.tick) for pending in state.pending}
    live = [job for job in state.jobs if job in coming or standing.get(job) == "live"]
    # Where ticks may be held up only one fires at a time: make_timetable() sees to it.
    held_up = _held_up(timetable, live, failed=_last_failed(state.jobs, live, standing))
    if firing and held_up is not None:
        decided += [Decided(now, "skipped", tick, held_up) for tick in firing]
        firing = []
    cancel = tuple(live) if timetable.overlap == "cancel_previous" else ()
    queued = timetable.overlap == "queue_one" and bool(live)
    decided += [Decided(now, "fired", tick, _lateness(now - tick)) for tick in firing]
    after = msgspec.structs.replace(
        state,
        last=due[-1],
        pending=(*state.pending, *(Pending(tick, now, cancel, queued) for tick in firing)),
        jobs=state.knowing(*(job_id(schedule.name, tick) for tick in firing)),
        history=state.noting(*decided),
    )
    return after, decided


def _missed(ticks: Sequence[float], more: bool, timetable: Timetable, now: float) -> list[Decided]:
    if not ticks:
        return []
    if now - ticks[-1] > timetable.grace:
        reason = f"nobody was there, and more than {timetable.grace:g} s late they do not fire"
    else:
        reason = f"nobody was there, and misfire={timetable.misfire!r}"
    return [Decided(now, "missed", ticks[0], reason, ticks[-1] if len(ticks) > 1 else None, 0 if more else len(ticks))]


def _held_up(timetable: Timetable, live: Sequence[str], *, failed: bool) -> str | None:
    if timetable.block_while_failed and failed:
        return "the last job is a dead letter: revive or purge it"
    at_most = {"skip": 1, "queue_one": 2}.get(timetable.overlap, inf)
    if len(live) >= at_most:
        return f"{' and '.join(sorted(live))} had not ended"
    return None


def _last_failed(jobs: Sequence[str], live: Sequence[str], standing: Standings) -> bool:
    """Whether of the jobs that are over the newest is a dead letter."""
    return next((standing.get(job) == "dead" for job in reversed(jobs) if job not in live), False)


def _lateness(late: float) -> str:
    return f"{late:.0f} s late" if late >= 1 else ""


def done(state: State, pending: Pending, refused: str | None, now: float) -> State:
    """The state when a tick's job is enqueued, or was refused for a reason; the same if somebody else was first."""
    if pending not in state.pending:
        return state
    history = state.history
    if refused is not None:
        refusal = Decided(now, "refused", pending.tick, refused)
        history = tuple(refusal if _is_firing(known, pending) else known for known in history)
    left = tuple(other for other in state.pending if other != pending)
    return msgspec.structs.replace(state, pending=left, history=history)


def _is_firing(known: Decided, pending: Pending) -> bool:
    return known.verdict == "fired" and known.tick == pending.tick


def _fingerprint(schedule: Schedule) -> str:
    return sha256(msgspec.json.encode(schedule.timetable.timing)).hexdigest()[:16]
