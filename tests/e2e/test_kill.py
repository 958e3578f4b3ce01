"""Workers die by SIGKILL, at random and at every point of a job's way, and no promise is broken."""

import os
import platform
import random
import signal
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import cycle
from pathlib import Path

import anyio
import pytest

from taskq.job import JobRef
from taskq.report import read_outcome
from taskq.testing.history import Fetched, Started
from taskq.testing.verdict import Verdict
from tests.e2e.harness import LONG, QUEUE, Client, Crew, Departure, Fleet, backend_of, client
from tests.e2e.worker import POINTS

Rounds = Callable[[int, int], int]
Report = Callable[[str, str], None]

SEED = 20
VICTIMS = (1, 1, 2, 2, 3, 4)
"""How many of four workers die in a round; one of these."""

pytestmark = [pytest.mark.anyio, pytest.mark.long]


async def kill_round(fleet: Fleet, customer: Client, chance: random.Random, points: Sequence[str], jobs: int) -> None:
    """Enqueue jobs while workers are to die, and wait, without another enqueue, until all jobs are done."""
    places = chance.sample(range(fleet.crew.workers), len(points))
    at_random: list[int] = []
    for place, point in zip(places, points, strict=True):
        if point in POINTS:
            fleet.order(place, point, chance.randint(1, 3))
        else:
            at_random.append(place)
    await customer.defer(customer.calls("work", [[chance.uniform(0.02, 0.2)] for _ in range(jobs)]))
    for place in at_random:
        await anyio.sleep(chance.uniform(0.0, 0.2))
        fleet.kill(place)
    await customer.drained(fleet.revive)


@pytest.mark.timeout(3600)
async def test_no_job_is_lost_and_none_runs_twice_without_a_reason(
    url: str, tmp_path: Path, rounds: Rounds, report: Report
) -> None:
    count, jobs = rounds(8, 200), rounds(1_000, 10_000)
    chance = random.Random(SEED)
    points = cycle([*POINTS, "at random"])
    with Fleet(tmp_path, Crew(url=url)) as fleet:
        fleet.revive()
        async with client(fleet) as customer:
            traits = customer.app.backend.broker.traits
            for _ in range(count):
                victims = chance.choice(VICTIMS)
                await kill_round(fleet, customer, chance, [next(points) for _ in range(victims)], jobs // count)
            dead = await customer.app.admin.list_jobs(QUEUE, "dead", after=None, limit=10)
        verdict = fleet.judge(traits.exact_attempts)
    report(f"kill-{backend_of(url)}", kill_report(url, count, fleet.crew, verdict))
    assert verdict.holds, str(verdict)
    assert not dead
    assert verdict.counts["completed"] == jobs // count * count
    assert all(verdict.kills.get(point, 0) >= rounds(1, 20) for point in [*POINTS, "at random"]), verdict.kills


def kill_report(url: str, count: int, crew: Crew, verdict: Verdict) -> str:
    """What the run has shown, as a page."""
    backend = backend_of(url)
    tables = [
        ("promise", "offences", {name: len(found) for name, found in verdict.offences.items()}),
        ("point", "kills", dict(sorted(verdict.kills.items()))),
        ("", "jobs", verdict.counts),
        ("delivered again because", "deliveries", verdict.causes),
        ("from a kill to the next start", "seconds", shares(verdict.restarts)),
        ("of it, with the lease over and a worker asking for jobs", "seconds", shares(verdict.waits)),
    ]  # fmt: skip
    shown = "\n\n".join(
        "\n".join([f"| {left} | {right} |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows.items())])
        for left, right, rows in tables
    )
    return (
        f"# Kill test on {backend}\n\n"
        f"{count} rounds, {sum(verdict.kills.values())} kills by SIGKILL. In each round jobs are enqueued while one to "
        f"four of {crew.workers} worker processes ({crew.slots} slots each, lease {crew.lease:g} s) die, at random or "
        "at a named point; then nothing is enqueued until all jobs are done. An interrupted job has 5 s to start "
        "again, once its lease is over and a worker asks for jobs. The promises are those of "
        "`taskq.testing.verdict`.\n\n"
        f"{shown}\n\n"
        f"Written by `make test-long`, seed {SEED}, Python {platform.python_version()}.\n"
    )


def shares(rising: Sequence[float]) -> dict[str, str]:
    """How long half of them took, nearly all, and all."""
    named = (("half within", 0.5), ("99 % within", 0.99), ("all within", 1.0))
    last = len(rising) - 1
    return {name: f"{rising[min(int(share * len(rising)), last)]:.2f}" for name, share in named if rising}


@pytest.mark.timeout(3600)
async def test_a_terminated_worker_ends_in_time_and_hands_its_jobs_over_at_no_cost(
    url: str, tmp_path: Path, rounds: Rounds, report: Report
) -> None:
    chance = random.Random(SEED)
    # There is room for what the one hands over.
    crew = Crew(url=url, slots=4, grace=0.2)
    ends: list[Departure] = []
    with Fleet(tmp_path, crew) as fleet:
        fleet.revive()
        async with client(fleet) as customer:
            for number in range(rounds(2, 200)):
                if number % 2 == 0:
                    # They run for as long as it takes to end one of their workers.
                    before = fleet.count(Started)
                    fleet.release.unlink(missing_ok=True)
                    await customer.defer(customer.calls("released", [[] for _ in range(12)]))
                    await fleet.started(before + 12)
                    place = chance.choice(fleet.busy())
                else:
                    await customer.defer(customer.calls("work", [[chance.uniform(0.5, 1.0)] for _ in range(12)]))
                    await anyio.sleep(chance.uniform(0.0, 1.5))
                    place = chance.randrange(crew.workers)
                ends.append(await fleet.leaves(place))
                fleet.release.touch()
                # One that has not begun to work has nothing to hand over.
                assert ends[-1].code in (0, -signal.SIGTERM)
                fleet.revive()
                await customer.drained()
        verdict = fleet.judge()
        counted = fleet.count(Fetched, lambda fetched: fetched.attempt > 1 or fetched.losses > 0)
    assert verdict.handovers
    report(f"drain-{backend_of(url)}", drain_report(url, crew, ends, verdict, counted))
    assert verdict.holds, str(verdict)
    assert verdict.causes.keys() == {"given back"}
    assert not counted
    if LONG:
        assert max(end.seconds - end.starved for end in ends) < crew.grace + 2.0
        assert verdict.handovers[-1] < 2.0


def drain_report(url: str, crew: Crew, ends: Sequence[Departure], verdict: Verdict, counted: int) -> str:
    """What the run has shown, as a page."""
    backend = backend_of(url)
    rows = {
        "jobs": verdict.counts["acknowledged"],
        "lost": len(verdict.offences["lost"]),
        "overlapping": len(verdict.offences["overlapping"]),
        "attempts or losses counted": counted,
        "runs cut off and handed over": len(verdict.handovers),
    }
    times = [
        shares(sorted(end.seconds for end in ends)),
        shares(sorted(end.seconds - end.starved for end in ends)),
        shares(verdict.handovers),
    ]
    shown = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    timed = "\n".join(f"| {name} | {' | '.join(each[name] for each in times)} |" for name in times[0])
    return (
        f"# Drain test on {backend}\n\n"
        f"{len(ends)} times SIGTERM at a random moment to one of {crew.workers} worker processes ({crew.slots} slots "
        f"each, grace {crew.grace:g} s), while twelve jobs run that end when it has, or of half a second to one; it "
        "may be starting, idle, busy or settling.\n\n"
        f"| | |\n|---|---:|\n{shown}\n\n"
        "| | from SIGTERM to the exit, s | without waiting for a core, s | from a cut-off to the next start, s |\n"
        f"|---|---:|---:|---:|\n{timed}\n\n"
        f"Written by `make test-long`, seed {SEED}, Python {platform.python_version()}.\n"
    )


@pytest.mark.timeout(3600)
async def test_a_newsletter_never_stays_at_sending_when_its_worker_is_killed(
    url: str, tmp_path: Path, rounds: Rounds
) -> None:
    chance = random.Random(SEED)
    with Fleet(tmp_path, Crew(url=url, workers=2)) as fleet:
        with closing(sqlite3.connect(fleet.domain)) as domain:
            domain.execute("PRAGMA journal_mode = WAL")
            domain.execute("CREATE TABLE newsletters (id INTEGER PRIMARY KEY, status TEXT NOT NULL)")
        fleet.revive()
        async with client(fleet) as customer:
            for number in range(rounds(2, 200)):
                await customer.defer(customer.calls("newsletter", [[number * 10 + row, 20] for row in range(10)]))
                await anyio.sleep(chance.uniform(0.0, 0.25))
                fleet.kill(number % 2)
                await customer.drained(fleet.revive)
        verdict = fleet.judge()
        with closing(sqlite3.connect(fleet.domain)) as domain:
            statuses = dict(domain.execute("SELECT status, count(*) FROM newsletters GROUP BY status").fetchall())
    assert verdict.holds, str(verdict)
    assert verdict.counts["interrupted"]
    assert customer.overdue < 5.0 or not LONG
    assert statuses == {"sent": rounds(2, 200) * 10}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("task", ["hold", "hold_at_most_once"])
async def test_a_hundred_running_jobs_of_a_killed_worker_run_again_or_are_said_to_be_lost(
    url: str, tmp_path: Path, rounds: Rounds, task: str
) -> None:
    crew = Crew(url=url, workers=1, slots=100)
    count = rounds(1, 125)
    with Fleet(tmp_path, crew) as fleet:
        async with client(fleet) as customer:
            for _ in range(count):
                fleet.revive()
                before = fleet.count(Started)
                calls = customer.calls(task, [[] for _ in range(100)])
                await customer.defer(calls)
                await fleet.started(before + 100)
                fleet.kill(0)
                fleet.revive()
                await customer.drained()
            admin = customer.app.admin
            ends = [
                read_outcome(record.outcome or b"").end
                for record in await admin.list_jobs(QUEUE, "dead", after=None, limit=100 * count + 1)
            ]
        verdict = fleet.judge()
        started = fleet.count(Started)
    assert verdict.holds, str(verdict)
    assert verdict.counts["interrupted"] == 100 * count
    if task == "hold":
        assert (started, ends) == (200 * count, [])
    else:
        assert (started, ends) == (100 * count, ["lost"] * 100 * count)


async def test_a_job_that_kills_its_workers_is_quarantined_and_takes_no_healthy_one_with_it(
    url: str, tmp_path: Path, rounds: Rounds
) -> None:
    chance = random.Random(SEED)
    with Fleet(tmp_path, Crew(url=url, workers=2, slots=20, lease=1.0)) as fleet:
        async with client(fleet) as customer:
            healthy = customer.calls("healthy", [[chance.uniform(0.0, 0.05)] for _ in range(rounds(300, 1_000))])
            poison = customer.calls("poison", [[]])
            await customer.defer([*healthy[:10], *poison, *healthy[10:]])
            await customer.drained(fleet.revive)
            dead = await customer.app.admin.list_jobs(QUEUE, "dead", after=None, limit=10)
            outcome = await customer.app.outcome(JobRef(QUEUE, poison[0].job.id), wait=0.0)
        verdict = fleet.judge()
    assert verdict.holds, str(verdict)
    assert [record.job.id for record in dead] == [poison[0].job.id]
    assert outcome is not None
    ended = read_outcome(outcome)
    assert ended.end == "quarantined"
    assert ended.worker is not None
    assert ended.worker.pid not in {os.getpid(), 0}
    assert verdict.kills == {"poison": 3}
    assert verdict.counts["completed"] == len(healthy)


@pytest.mark.timeout(3600)
async def test_a_drained_worker_gives_nothing_back_that_still_runs(url: str, tmp_path: Path, rounds: Rounds) -> None:
    """Jobs that take longer than the lease to heed a cancellation are not started elsewhere meanwhile."""
    count = rounds(1, 100)
    with Fleet(tmp_path, Crew(url=url, workers=2, slots=100)) as fleet:
        async with client(fleet) as customer:
            for _ in range(count):
                fleet.start(0)
                before = fleet.count(Started)
                await customer.defer(customer.calls("stubborn", [[3.0, number % 2 == 0] for number in range(100)]))
                await fleet.started(before + 100)
                fleet.start(1)
                fleet.terminate(0)
                await customer.drained()
                assert await fleet.ended(0) == 0
                fleet.terminate(1)
                assert await fleet.ended(1) == 0
        verdict = fleet.judge()
        started = fleet.count(Started)
    assert verdict.holds, str(verdict)
    assert verdict.causes == {"given back": 50 * count}
    assert started == 150 * count
