"""How long from the call of defer to the job's start, on an idle system and at half of its load?"""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.beside import Near, Table, side_by_side
from benchmarks.driver import Program, Uncounted, do, fill
from benchmarks.environments import Missing
from benchmarks.grounds import Ground
from benchmarks.sides import Side

COLUMNS = [
    ("p50", "p50, ms"),
    ("p95", "p95, ms"),
    ("p99", "p99, ms"),
    ("pace", "jobs/s meanwhile"),
    ("idle_rss", "MiB of the waiting worker"),
]
IDLE = 100.0
"""Jobs a second that leave a worker idle."""
SETTLED = 10
"""The first jobs after a start are not counted."""


def idle(ground: Ground, sides: Sequence[Side], rounds: int, jobs: int, near: Near = None) -> Table:
    """A job each 10 ms, to a worker that has nothing else to do."""

    def once(side: Side) -> Mapping[str, float]:
        return spread(side, ground, jobs, IDLE)

    return side_by_side(f"{ground.name}/idle", "from defer to start, idle", COLUMNS, sides, once, rounds, near)


def loaded(ground: Ground, sides: Sequence[Side], rounds: int, seconds: float, rates: Mapping[str, float]) -> Table:
    """No-op jobs at half of what the side was found to process, or at a quarter of what it was found to defer."""

    def once(side: Side) -> Mapping[str, float]:
        if side.name not in rates:
            raise Missing("its rate is not known")
        return spread(side, ground, int(rates[side.name] * seconds), rates[side.name])

    return side_by_side(f"{ground.name}/loaded", "from defer to start, at half load", COLUMNS, sides, once, rounds)


def spread(side: Side, ground: Ground, jobs: int, pace: float) -> Mapping[str, float]:
    """Percentiles of jobs that come at a pace, in milliseconds."""
    url = ground.fresh(side.program)
    fill(side, ground, url, 1, "stamp")
    worker = Program(side, ground, url, "work", jobs=jobs + 1, kind="stamp")
    try:
        worker.first()
        waiting = worker.rss()
        do(side, ground, url, "defer", how="paced", kind="stamp", first=1, jobs=jobs, pace=pace)
        found = worker.answer()["latencies"][1 + SETTLED :]
    finally:
        worker.kill()
    if len(found) < 2:
        raise Uncounted("too few jobs to tell")
    hundredths = statistics.quantiles(found, n=100, method="inclusive")
    at = {f"p{share}": hundredths[share - 1] * 1e3 for share in (50, 95, 99)}
    return {**at, "pace": pace, "idle_rss": waiting}
