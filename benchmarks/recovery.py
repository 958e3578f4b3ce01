"""A worker is killed with its slots full: how long until all that it held has run elsewhere?"""

import time
from collections.abc import Mapping

from msgspec.structs import replace

from benchmarks.beside import Table, side_by_side
from benchmarks.driver import Program, do, fill
from benchmarks.grounds import Ground
from benchmarks.sides import TASKQ, Side

JOBS = 100
LEASE = 2.0


def ask(ground: Ground, rounds: int) -> Table:
    """The lease is two seconds; another worker stands by from before the kill."""
    side = replace(TASKQ, options={"lease": LEASE})

    def once(side: Side) -> Mapping[str, float]:
        url = ground.fresh(side.program)
        fill(side, ground, url, JOBS)
        doomed = Program(side, ground, url, "work", jobs=JOBS, kind="hold")
        doomed.first()
        doomed.kill()
        killed = time.monotonic()
        do(side, ground, url, "work", jobs=JOBS)
        return {"seconds": time.monotonic() - killed}

    title = f"SIGKILL with {JOBS} jobs running, {LEASE:g} s leases, until the last one has run again"
    return side_by_side(f"{ground.name}/recovery", title, [("seconds", "s")], [side], once, rounds)
