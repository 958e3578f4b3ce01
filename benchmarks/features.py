"""What does each feature cost, beside a plain job?"""

from collections.abc import Mapping

from msgspec.structs import replace

from benchmarks.beside import Table, side_by_side
from benchmarks.driver import do, fill
from benchmarks.grounds import Ground
from benchmarks.sides import TASKQ, Side

COLUMNS = [
    ("rate", "jobs/s"),
    ("share", "of plain"),
    ("cpu", "worker CPU, µs a job"),
    ("server_cpu", "server CPU, µs a job"),
]
FEATURES = {
    "plain": "plain",
    "result": "a result that is kept",
    "unique": "a unique key each",
    "group": "100 groups, in order",
    "batch": "a batch's members",
    "limit": "a rate limit that grants",
    "tracing": "a trace each",
    "middleware": "a middleware",
}
JOBS = 10_000


def ask(ground: Ground, rounds: int) -> Table:
    """No-op jobs with one feature each."""
    names = {said: feature for feature, said in FEATURES.items()}

    def once(side: Side) -> Mapping[str, float]:
        with_it = replace(side, options={"feature": names[side.name]})
        url = ground.fresh(side.program)
        fill(with_it, ground, url, JOBS)
        answer = do(with_it, ground, url, "work", jobs=JOBS)
        cpu = {name: answer[name] / JOBS * 1e6 for name in ("cpu", "server_cpu")}
        return {"rate": (JOBS - 1) / answer["seconds"], **cpu}

    sides = [replace(TASKQ, name=said) for said in FEATURES.values()]
    table = side_by_side(f"{ground.name}/features", "what a feature costs", COLUMNS, sides, once, rounds)
    return _shared(table)


def _shared(table: Table) -> Table:
    """The table with what is left of the plain rate of the same round."""
    for row in reversed(table.rows):
        for found, plain in zip(row.rounds, table.rows[0].rounds, strict=True):
            if "rate" in found and "rate" in plain:
                found["share"] = found["rate"] / plain["rate"]
    return table
