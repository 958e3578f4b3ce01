"""How many jobs a second does one worker process end, and what does a job cost worker and server?"""

from collections.abc import Mapping, Sequence

from benchmarks.beside import Near, Table, side_by_side
from benchmarks.driver import do, fill, per_job
from benchmarks.grounds import Ground
from benchmarks.sides import Side

COLUMNS = [
    ("rate", "jobs/s"),
    ("cpu", "worker CPU, µs a job"),
    ("server_cpu", "server CPU, µs a job"),
    ("commands", "commands"),
    ("reads", "reads"),
    ("commits", "commits"),
    ("wal", "WAL bytes"),
    ("calls", "calls"),
    ("rss", "MiB after it"),
]
KINDS = {
    "noop": "jobs that do nothing",
    "nap": "jobs that sleep 10 ms, 100 slots (at best 10,000/s)",
    "payload": "jobs that carry 10 KiB",
    "cpu": "jobs that compute for a millisecond",
}


def ask(ground: Ground, sides: Sequence[Side], kind: str, rounds: int, near: Near = None) -> Table:
    """Jobs wait; a worker is started; counted from the first one's start to the last one's."""

    def once(side: Side) -> Mapping[str, float]:
        jobs = {"nap": side.naps, "cpu": min(side.jobs, 2_000), "payload": side.jobs // 4}.get(kind, side.jobs)
        url = ground.fresh(side.program)
        fill(side, ground, url, jobs, kind)
        before = ground.counters()
        answer = do(side, ground, url, "work", jobs=jobs, kind=kind)
        cost = per_job(before, ground.counters(), jobs)
        cost.pop("held", None)
        rate = (jobs - 1) / answer["seconds"]
        cpu = {name: answer[name] / jobs * 1e6 for name in ("cpu", "server_cpu")}
        return {"rate": rate, **cpu, **cost, "rss": answer["rss"]}

    return side_by_side(f"{ground.name}/{kind}", KINDS[kind], COLUMNS, sides, once, rounds, near)
