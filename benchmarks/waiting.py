"""Does a long queue slow a worker down, and does a worker grow?"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from benchmarks.beside import Table, side_by_side
from benchmarks.driver import do, fill
from benchmarks.grounds import Ground
from benchmarks.sides import TASKQ, Side

COLUMNS = [
    ("rate", "jobs/s"),
    ("cpu", "worker CPU, µs a job"),
    ("server_cpu", "server CPU, µs a job"),
    ("early_rss", "MiB after a tenth"),
    ("rss", "MiB at the end"),
]
RUN = 5_000


def ask(ground: Ground, sizes: Sequence[int], rounds: int) -> Table:
    """So many jobs wait, and 5,000 of them run (all, if they are fewer)."""
    sides = {f"{size:,} waiting": size for size in sizes}

    def once(side: Side) -> Mapping[str, float]:
        return _run(ground, sides[side.name], min(RUN, sides[side.name]))

    named = [replace(TASKQ, name=name) for name in sides]
    return side_by_side(f"{ground.name}/waiting", "no-op jobs, more and more waiting", COLUMNS, named, once, rounds)


def growth(ground: Ground, size: int, rounds: int) -> Table:
    """One worker runs them all."""
    title = f"memory of a worker that runs {size:,} jobs"
    return side_by_side(
        f"{ground.name}/growth", title, COLUMNS, [TASKQ], lambda _side: _run(ground, size, size), rounds
    )


def _run(ground: Ground, waiting: int, jobs: int) -> Mapping[str, float]:
    url = ground.fresh(TASKQ.program)
    fill(TASKQ, ground, url, waiting)
    answer = do(TASKQ, ground, url, "work", jobs=waiting, goal=jobs)
    cpu = {name: answer[name] / jobs * 1e6 for name in ("cpu", "server_cpu")}
    rss = {name: answer[name] for name in ("early_rss", "rss")}
    return {"rate": (jobs - 1) / answer["seconds"], **cpu, **rss}
