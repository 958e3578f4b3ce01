"""What follows from the evidence: pure."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from taskq.broker import Record
from taskq.expiry import expiry
from taskq.explain.evidence import LOOKED_AT, Evidence
from taskq.job import State
from taskq.report import Ended, ErrorReport, Uncounted, last_words
from taskq.sequel import FLOW
from taskq.versions import version_of
from taskq.worker.control import pauses_on
from taskq.worker.register import Entry, Places, RunningJob
from taskq.worker.slots import SUSPICIOUS

SHOWN = 5
"""Holders of slots or places that a reason names at most."""


class Reason(Struct, frozen=True, omit_defaults=True):
    """Why something is as it is, and why that is so."""

    kind: str
    """A word for programs: ``paused``, ``no_worker``, ``behind`` …"""
    text: str
    at: float | None = None
    """The moment it speaks of, in seconds since the epoch: when it began, or will be over."""
    remedy: str = ""
    """A command that changes it."""
    because: tuple["Reason", ...] = ()


class Explanation(Struct, frozen=True):
    """Why a job is where it is."""

    id: str
    queue: str | None
    task: str | None
    state: State | Literal["gone", "awaited", "unknown"]
    """``awaited``: it is enqueued when what it follows has ended; ``unknown``: there is no trace of it."""
    reasons: tuple[Reason, ...]


def explained(evidence: Evidence) -> Explanation:
    """Why a job that is stored does not run, and why it ran before."""
    record = evidence.record
    reasons = (*_now(evidence), *_past(record.attempt, record.losses, *_runs(evidence)))
    return Explanation(record.job.id, record.job.queue, record.job.task, record.state, reasons)


def explained_end(id: str, queue: str, ended: Ended) -> Explanation:
    """How a job ended that is gone."""
    said = f": {ended.reason}" if ended.reason else ""
    past = _past(ended.attempt, ended.losses, ended.errors, ended.uncounted)
    return Explanation(id, queue, None, "gone", (Reason("ended", f"it has ended: {ended.end}{said}"), *past))


def _now(evidence: Evidence) -> Iterator[Reason]:
    match evidence.record.state:
        case "dead":
            yield _dead(evidence)
        case "leased":
            yield _leased(evidence)
        case "later":
            yield _later(evidence)
            yield from _of_queue(evidence)
            yield from _of_workers(evidence, now=False)
        case "ready":
            found = [*_of_itself(evidence), *_of_queue(evidence), *_of_group(evidence)]
            found += [*_of_workers(evidence, now=True), *_of_others(evidence)]
            yield from found or [Reason("due", "nothing holds it back: a worker fetches it in a moment")]


def _dead(evidence: Evidence) -> Reason:
    record, ended = evidence.record, evidence.ended
    end = "set aside" if ended is None else ended.end
    why = "" if ended is None else ended.reason or (_error(ended.errors[-1]) if ended.errors else "")
    because = list[Reason]()
    if FLOW in record.job.headers:
        because.append(Reason("flow", "what was to follow it waits: revived, the job goes on with it when it returns"))
    if ended is not None and ended.worker is not None:
        seen = ended.worker
        stack = (Reason("stack", seen.stack.rstrip()),) if seen.stack else ()
        because.append(Reason("last_worker", f"{last_words(seen)}; it told so", seen.at, because=stack))
    remedy = f"taskq dead revive {shlex.quote(record.job.id)}"
    return Reason("dead", f"it was set aside, {end}: {why}", record.due, remedy, tuple(because))


def _leased(evidence: Evidence) -> Reason:
    record = evidence.record
    for entry in evidence.workers or ():
        for run in entry.jobs:
            if run.id == record.job.id and run.queue == record.job.queue:
                began = Reason("began", f"attempt {run.attempt} has run there for {run.seconds:.0f} s")
                text = f"{entry.id}{_of_build(entry.build)} runs it; leased until"
                return Reason("running", text, record.due, because=(began,))
    text = (
        "a worker holds it that does not tell of running it: it waits there for a slot, or the worker has died, and it "
        "runs again when the lease is over"
    )
    return Reason("leased", text, record.due)


def _later(evidence: Evidence) -> Reason:
    record, history = evidence.record, evidence.history
    if history.turn is not None:
        paused = 0.0 if evidence.line is None else evidence.line.paused
        stop = (Reason("limit_paused", "it grants nothing until", paused),) if paused > evidence.now else ()
        return Reason("limit", f"its turn of {history.turn} comes", record.due, because=stop)
    newest = max([0.0, *(error.at for error in history.errors), *(run.at for run in history.uncounted)])
    if history.parked_since is not None and history.parked_since >= newest:
        tries = f"no worker that fetched it knew its task: handed back {history.parked} times, next"
        return Reason("unknown_task", tries, record.due)
    if history.errors and history.errors[-1].at == newest:
        return Reason("retry", f"attempt {record.attempt} begins", record.due)
    if history.uncounted and history.uncounted[-1].at == newest:
        return Reason("put_off", f"it was put off ({history.uncounted[-1].reason}) until", record.due)
    return Reason("not_due", "it is due", record.due)


def _of_itself(evidence: Evidence) -> Iterator[Reason]:
    record = evidence.record
    if record.cancelled:
        yield Reason("cancelled", "it was asked to be cancelled: it ends when a worker fetches it")
    expires_at = expiry(record.job.headers, record.expires_at)
    if expires_at is not None and expires_at <= evidence.now:
        yield Reason("expired", "it is too late to start, and ends when a worker fetches it; it expired", expires_at)
    if record.losses >= SUSPICIOUS:
        text = f"{record.losses} workers died under it: it runs alone, when a worker has finished everything else"
        yield Reason("suspect", text)


def _of_queue(evidence: Evidence) -> Iterator[Reason]:
    for name in pauses_on(evidence.record.job):
        if name in evidence.paused:
            kind, colon, own = name.partition(":")
            until, what = evidence.paused[name], f"{kind} {own}" if colon else f"queue {name}"
            text = f"{what} is paused until " + ("somebody resumes it" if until is None else "a moment")
            yield Reason("paused", text, until, f"taskq resume --{kind} {own}" if colon else f"taskq resume {name}")


def _of_group(evidence: Evidence) -> Iterator[Reason]:
    job, holders = evidence.record.job, evidence.holders
    if job.group is None or len(holders) < job.group_limit:
        return
    text = f"its group {job.group} is full: {len(holders)} of {job.group_limit} places are taken"
    yield Reason("group", text, because=tuple(_holder(one) for one in holders[:SHOWN]))


def _holder(record: Record) -> Reason:
    text = f"{record.job.id} ({record.job.task}) is {record.state}" + ("" if record.state == "ready" else " until")
    return Reason("holder", text, None if record.state == "ready" else record.due)


def _of_workers(evidence: Evidence, *, now: bool) -> Iterator[Reason]:
    """What keeps every worker from it; what may be over when it is due is told only of one that is due ``now``."""
    job, entries = evidence.record.job, evidence.workers
    if entries is None:
        return
    serving = [entry for entry in entries if job.queue in entry.queues]
    if not serving:
        others = sorted({queue for entry in entries for queue in entry.queues})
        text = f"no worker serves queue {job.queue}: " + (
            f"they serve {', '.join(others)}" if others else "none is there"
        )
        yield Reason("no_worker", text, remedy=f"taskq worker MODULE:app --queues {job.queue}")
        return
    knowing = [entry for entry in serving if entry.tasks is None or job.task in entry.tasks]
    wanted = version_of(job.headers)
    able = [entry for entry in knowing if entry.tasks is None or entry.tasks[job.task] >= wanted]
    if not knowing:
        text = f"no worker of queue {job.queue} knows task {job.task}"
        yield Reason(
            "unknown_task", text, remedy="deploy the code that has it, or: taskq cancel " + shlex.quote(job.id)
        )
    elif not able:
        text = f"it was deferred for version {wanted} of {job.task}, and the workers of queue {job.queue} are older"
        yield Reason("version", text, remedy="deploy the code that deferred it")
    elif now:
        yield from _of_able_workers(able, job.queue)


def _of_able_workers(able: Sequence[Entry], queue: str) -> Iterator[Reason]:
    working = [entry for entry in able if entry.state == "working"]
    if not working:
        text = "no worker that could run it fetches: " + ", ".join(
            f"{entry.id} is {entry.state}" for entry in able[:SHOWN]
        )
        yield Reason("quiet", text, remedy=f"taskq workers ask resume {able[0].id}")
        return
    places = [place for entry in working for place in _places(entry) if queue in place.queues]
    if all(place.running >= place.slots for place in places):
        beside = {name for place in places for name in place.queues}
        jobs = [job for entry in working for job in entry.jobs if job.queue in beside]
        jobs.sort(key=lambda job: -job.seconds)
        slots = sum(place.slots for place in places)
        text = f"of the slots for queue {queue} none is free: {slots} are taken"
        yield Reason("slots", text, because=tuple(_slot_of(job) for job in jobs[:SHOWN]))


def _places(entry: Entry) -> Sequence[Places]:
    """Of a worker that tells of no pools, all its slots are one."""
    return entry.pools or [Places(queues=entry.queues, slots=entry.slots, running=entry.running)]


def _slot_of(job: RunningJob) -> Reason:
    return Reason("holder", f"{job.id} ({job.task}) has run for {job.seconds:.0f} s")


def _of_others(evidence: Evidence) -> Iterator[Reason]:
    record, stats = evidence.record, evidence.stats
    place = (-record.job.priority, record.due)
    ahead = sum((-one.job.priority, one.due) < place for one in evidence.ready)
    if ahead:
        least = "at least " if stats.ready > LOOKED_AT else ""
        yield Reason("behind", f"it is behind {least}{ahead} of the {stats.ready} jobs that are ready in its queue")


def _runs(evidence: Evidence) -> tuple[Sequence[ErrorReport], Sequence[Uncounted]]:
    kept = evidence.ended or evidence.history
    return kept.errors, kept.uncounted


def _past(
    attempt: int, losses: int, errors: Sequence[ErrorReport], uncounted: Sequence[Uncounted]
) -> tuple[Reason, ...]:
    """Every run before, with its cause; what is not kept of them is said so."""
    runs = [Reason("error", f"{_attempt(one)} failed: {_error(one)}", one.at) for one in errors]
    runs += [Reason("uncounted", f"{_attempt(one)} did not count: {one.reason}", one.at) for one in uncounted]
    runs.sort(key=lambda run: run.at or 0.0)
    if losses:
        text = f"{losses} times its lease ended unsettled: its worker died, or was cut off from the broker"
        runs.append(Reason("lost", text))
    if not runs:
        return ()
    return (Reason("past", f"it is at attempt {attempt}, and has run before", because=tuple(runs)),)


def _attempt(run: ErrorReport | Uncounted) -> str:
    return f"attempt {run.attempt}{_of_build(run.build)}"


def _of_build(build: str | None) -> str:
    return f" (build {build})" if build else ""


def _error(error: ErrorReport) -> str:
    return f"{error.type}: {error.message}" if error.message else error.type
