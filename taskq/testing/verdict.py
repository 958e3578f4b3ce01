"""Whether a queue kept its word: the checker of the kill tests.

After a final drain :func:`check` merges the journals of all processes, in the manner of Jepsen's total queue:

=========== ==========================================================================================
lost        acknowledged, and neither completed nor set aside
phantom     run, and nobody ever tried to enqueue it
unexplained delivered again although nothing recorded explains it
overlapping two runs at once, although the lease of the earlier one lasted
stale       an end that was accepted although the job had been delivered again
misnumbered ``fence``, ``losses`` or ``attempt`` that do not follow from what happened before
late        interrupted by a kill, its lease over, and not started again within the patience, of which only the
            time counts in which a worker asked for jobs: how long workers take to start is no promise of the queue
=========== ==========================================================================================
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Literal

from msgspec import Struct

from taskq.testing.history import (
    Answer,
    Answered,
    Asking,
    Effect,
    Ended,
    Extended,
    Fetched,
    How,
    Invoked,
    Killed,
    Line,
    Settled,
    Settling,
    Started,
)


class Verdict(Struct, frozen=True, kw_only=True):
    """What the histories show. It holds when no promise has an offence."""

    offences: Mapping[str, Sequence[str]]
    """By promise; each with the history of the one job it is about."""
    counts: Mapping[str, int]
    kills: Mapping[str, int]
    """How often each named point was hit."""
    causes: Mapping[str, int]
    """Why jobs were delivered again."""
    restarts: Sequence[float]
    """Seconds from a kill to the next start of each job it interrupted, rising."""
    waits: Sequence[float]
    """Seconds of these in which the lease was over and a worker asked for jobs, rising."""
    handovers: Sequence[float]
    """Seconds from the end of each run that a drain cut off to the job's next start, rising."""

    @property
    def holds(self) -> bool:
        """True when every promise was kept."""
        return not any(self.offences.values())

    def __str__(self) -> str:
        """The verdict of each promise, then up to three offences of each that was broken."""
        rows = [f"{name:12} {len(found)}" for name, found in self.offences.items()]
        stories = [f"{name}: {story}" for name, found in self.offences.items() for story in found[:3]]
        points = "  ".join(f"{point}: {hits}" for point, hits in sorted(self.kills.items()))
        return "\n".join([*rows, f"kills        {points}", *stories])


class _Delivery(Struct):
    """One delivery, as the journals tell of it."""

    job: str
    fence: int
    process: str
    at: float
    attempt: int | None = None
    losses: int | None = None
    held_until: float = -inf
    """The lease lasted at least until then."""
    started: float | None = None
    effect: bool = False
    ended: float | None = None
    returned: bool = False
    how: How | None = None
    settling: float = inf
    tries: int = 0
    """How often its end was asked for: again when there was no answer."""
    accepted: bool | None = None
    """What was answered; None also when a later try was refused, which the first one may have been the reason for."""
    killed: float = inf
    """When its process was killed."""

    @property
    def over(self) -> float:
        """When the run was over, one way or the other."""
        return min(inf if self.ended is None else self.ended, self.killed)

    @property
    def gone(self) -> bool:
        """The job left the queue by it, or may have."""
        return self.how in ("ack", "dead-letter") and self.accepted is not False

    def __str__(self) -> str:
        parts = [f"fence {self.fence} by {self.process} at {self.at:.3f}, losses {self.losses}, attempt {self.attempt}"]
        parts += [f"started {self.started:.3f}"] if self.started is not None else []
        parts += ["effect done"] if self.effect else []
        parts += [f"ended {self.ended:.3f}"] if self.ended is not None else []
        parts += [f"{self.how} {self.settling:.3f} ({_ANSWERS[self.accepted]})"] if self.how is not None else []
        parts += [f"killed {self.killed:.3f}"] if self.killed < inf else []
        return ", ".join([*parts, f"held until {self.held_until:.3f}"])


_ANSWERS = {None: "unanswered", True: "accepted", False: "refused"}


class _Story:
    """All journals, merged."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self.answers: dict[Answer | Literal["attempted"], set[str]] = {
            "attempted": set(), "ok": set(), "fail": set(), "unknown": set()
        }  # fmt: skip
        self.deliveries: dict[str, dict[int, _Delivery]] = {}
        self.twice: list[str] = []
        """Fences that were given to two deliveries."""
        self.killed: dict[str, float] = {}
        self.asking: dict[str, float] = {}
        """Since when each worker asks for jobs."""
        self.points: Counter[str] = Counter()

    def tell(self, process: str, line: Line) -> None:
        """Take in one line of one process."""
        match line.what:
            case Invoked(jobs):
                self.answers["attempted"].update(jobs)
            case Answered(jobs, answer):
                self.answers[answer].update(jobs)
            case Extended(held, asked):
                for job, fence in held:
                    delivery = self._delivery(job, fence, process, line.at)
                    delivery.held_until = max(delivery.held_until, asked + self._lease)
            case Asking():
                self.asking[process] = line.at
            case Killed(point, victim):
                self.killed[victim or process] = line.at
                self.points[point] += 1
            case what:
                self._tell_of_one(process, line.at, what)

    def _tell_of_one(
        self, process: str, at: float, what: Fetched | Started | Effect | Ended | Settling | Settled
    ) -> None:
        delivery = self._delivery(what.job, what.fence, process, at)
        match what:
            case Fetched(attempt=attempt, losses=losses, asked=asked):
                if delivery.attempt is not None:
                    self.twice.append(f"{what.job}: two deliveries with fence {what.fence}")
                delivery.attempt, delivery.losses = attempt, losses
                delivery.held_until = max(delivery.held_until, asked + self._lease)
            case Started():
                delivery.started = at
            case Effect():
                delivery.effect = True
            case Ended(returned=returned):
                delivery.ended, delivery.returned = at, returned
            case Settling(how=settlement):
                delivery.how, delivery.settling = settlement, min(delivery.settling, at)
                delivery.tries += 1
            case Settled(accepted=accepted):
                delivery.accepted = None if delivery.tries > 1 and not accepted else accepted

    def _delivery(self, job: str, fence: int, process: str, at: float) -> _Delivery:
        found = self.deliveries.setdefault(job, {})
        return found.setdefault(fence, _Delivery(job, fence, process, at))

    def attended(self, since: float, until: float) -> float:
        """Seconds between two moments in which a worker lived and asked for jobs; ``inf`` if the second never came."""
        seconds = inf if until == inf else 0.0
        for asking, killed in sorted((at, self.killed.get(process, inf)) for process, at in self.asking.items()):
            begun, over = max(asking, since), min(killed, until)
            if begun < over:
                seconds, since = seconds + over - begun, over
        return seconds

    def jobs(self) -> dict[str, list[_Delivery]]:
        """The deliveries of each job by rising fence, each with the kill that ended its process."""
        ordered: dict[str, list[_Delivery]] = {}
        for job, found in self.deliveries.items():
            ordered[job] = [found[fence] for fence in sorted(found)]
            for delivery in ordered[job]:
                delivery.killed = self.killed.get(delivery.process, inf)
        return ordered


def check(
    histories: Mapping[str, Iterable[Line]], *, lease: float, patience: float = 5.0, exact_attempts: bool = True
) -> Verdict:
    """Judge the journals of all processes, by name, after a final drain.

    An interrupted job has ``patience`` seconds to start again. ``exact_attempts=False`` for a broker
    without that trait.
    """
    story = _Story(lease)
    for process, lines in histories.items():
        for line in lines:
            story.tell(process, line)
    jobs = story.jobs()
    kills = sorted(story.killed.values())
    completed = {job for job, found in jobs.items() if any(one.returned for one in found)}
    aside = {job for job, found in jobs.items() if any(one.how == "dead-letter" and one.gone for one in found)}
    run = {job for job, found in jobs.items() if any(one.started is not None for one in found)}
    causes: Counter[str] = Counter()
    offences: dict[str, list[str]] = {
        "lost": [_tale(job, jobs.get(job, [])) for job in sorted(story.answers["ok"] - completed - aside)],
        "phantom": [_tale(job, jobs[job]) for job in sorted(run - story.answers["attempted"])],
        "unexplained": [], "overlapping": [], "stale": [], "misnumbered": [*story.twice], "late": [],
    }  # fmt: skip
    restarts: list[float] = []
    waits: list[float] = []
    handovers: list[float] = []
    for job, found in jobs.items():
        told = [_cause(earlier, later) for earlier, later in pairwise(found)]
        causes.update(cause for cause in told if cause is not None)
        resumed = _resumptions(found)
        restarts += [begun - killed for killed, begun in resumed]
        waited = [story.attended(killed + lease, begun) for killed, begun in resumed]
        waits += waited
        handovers += _handovers(found)
        for offence, broken in (
            ("unexplained", None in told),
            ("overlapping", _overlap(found)),
            ("stale", _stale(found)),
            ("misnumbered", exact_attempts and not _numbered(found, kills)),
            ("late", any(wait > patience for wait in waited)),
        ):
            if broken:
                offences[offence].append(_tale(job, found))
    return Verdict(
        offences=offences,
        counts={
            "attempted": len(story.answers["attempted"]),
            "acknowledged": len(story.answers["ok"]),
            "completed": len(completed),
            "recovered": len((completed | aside) - story.answers["ok"]),
            "set aside": len(aside),
            "deliveries": sum(map(len, jobs.values())),
            "effects done twice or more": sum(sum(one.effect for one in found) > 1 for found in jobs.values()),
            "interrupted": len(restarts),
        },
        kills=story.points,
        causes=causes,
        restarts=sorted(restarts),
        waits=sorted(waits),
        handovers=sorted(handovers),
    )


def _tale(job: str, deliveries: Sequence[_Delivery]) -> str:
    return "\n    ".join([job, *map(str, deliveries)]) if deliveries else f"{job}, never delivered"


def _cause(earlier: _Delivery, later: _Delivery) -> str | None:
    """Why a job was delivered again; None when nothing explains it."""
    nacked = earlier.how in ("nack", "uncounted nack") and earlier.settling <= later.at
    if nacked and earlier.accepted is not False:
        return "given back"
    if earlier.how is not None and earlier.accepted and earlier.settling <= later.at:
        return None
    if later.at < earlier.held_until:
        return None
    return "killed" if earlier.killed <= later.at else "lease over"


def _overlap(deliveries: Sequence[_Delivery]) -> bool:
    runs = [(one.started, one) for one in deliveries if one.started is not None]
    return any(
        start < earlier.over and start < earlier.held_until
        for position, (_, earlier) in enumerate(runs)
        for start, _ in runs[position + 1 :]
    )


def _stale(deliveries: Sequence[_Delivery]) -> bool:
    """Two accepted ends, or one that was asked for when a later delivery was out already."""
    accepted = [one for one in deliveries if one.accepted]
    return sum(one.gone for one in accepted) > 1 or any(
        later.at < one.settling for one in accepted for later in deliveries if later.fence > one.fence
    )


def _numbered(deliveries: Sequence[_Delivery], kills: Sequence[float]) -> bool:
    """Losses and attempts count what went before: exactly, but for what a kill kept from being written down."""
    for position, delivery in enumerate(deliveries):
        if delivery.attempt is None or delivery.losses is None:
            continue
        before = deliveries[:position]
        # Not every fence was written down: a kill may have come first.
        unseen = min(sum(kill <= delivery.at for kill in kills), delivery.fence - 1 - position)
        nacks = [one for one in before if one.how in ("nack", "uncounted nack") and one.accepted is not False]
        counted = [one for one in nacks if one.how == "nack"]
        sure = sum(one.accepted is True for one in counted)
        if not sure + 1 <= delivery.attempt <= len(counted) + 1:
            return False
        lost = len(before) - len(nacks)
        doubtful = sum(one.accepted is None for one in nacks)
        if not lost <= delivery.losses <= lost + doubtful + unseen:
            return False
    return True


def _resumptions(deliveries: Sequence[_Delivery]) -> list[tuple[float, float]]:
    """For each delivery that a kill cut off: the kill, and when the job ran again; ``inf`` when it never did."""
    return [
        (delivery.killed, _resumed(deliveries[position + 1 :]))
        for position, delivery in enumerate(deliveries)
        if delivery.killed < inf
        and delivery.accepted is None
        and not (delivery.gone and position + 1 == len(deliveries))
    ]


def _handovers(deliveries: Sequence[_Delivery]) -> list[float]:
    """For each run that was cut off and given back: until the job ran again."""
    return [
        _resumed(deliveries[position + 1 :]) - delivery.ended
        for position, delivery in enumerate(deliveries)
        if delivery.how == "uncounted nack" and delivery.ended is not None and not delivery.returned
    ]


def _resumed(later: Sequence[_Delivery]) -> float:
    """The next start; a delivery that is cut off before its run, or set aside, counts as one."""
    for delivery in later:
        if delivery.started is not None:
            return delivery.started
        if delivery.killed < inf or delivery.gone:
            return delivery.at
    return inf
