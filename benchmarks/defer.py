"""How fast does one process defer: one by one, 100 in flight, in bulk by thousands?"""

from collections.abc import Mapping, Sequence

from benchmarks.beside import Near, Table, side_by_side
from benchmarks.driver import do, per_job
from benchmarks.grounds import Ground
from benchmarks.sides import Side

COLUMNS = [
    ("rate", "jobs/s"),
    ("cpu", "producer CPU, µs a job"),
    ("server_cpu", "server CPU, µs a job"),
    ("commands", "commands"),
    ("commits", "commits"),
    ("wal", "WAL bytes"),
    ("calls", "calls"),
    ("held", "bytes the server holds"),
]
WAYS = {"one": "defer, one by one", "flight": "defer, 100 in flight", "bulk": "defer, 1,000 a call"}


def ask(ground: Ground, sides: Sequence[Side], how: str, rounds: int, near: Near = None) -> Table:
    """One more is deferred first, unmeasured; then the clock runs until the last one is confirmed."""

    def once(side: Side) -> Mapping[str, float]:
        jobs = side.defers * {"one": 1, "flight": 3, "bulk": 8}[how]
        url = ground.fresh(side.program)
        before = ground.counters()
        answer = do(side, ground, url, "defer", jobs=jobs, how=how, warm=True)
        cost = per_job(before, ground.counters(), jobs)
        cpu = {name: answer[name] / jobs * 1e6 for name in ("cpu", "server_cpu")}
        return {"rate": jobs / answer["seconds"], **cpu, **{name: cost[name] for name in cost if name != "reads"}}

    return side_by_side(f"{ground.name}/{how}", WAYS[how], COLUMNS, sides, once, rounds, near)
