"""How much more do several worker processes end than one, and what is the server's share?"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from benchmarks.beside import Table, side_by_side
from benchmarks.driver import Program, Uncounted, fill
from benchmarks.grounds import Ground
from benchmarks.peers.recorder import cpu_of
from benchmarks.sides import TASKQ, Side

COLUMNS = [("rate", "jobs/s"), ("cpu", "worker CPU, µs a job"), ("server", "server CPU, % of a core")]
PROCESSES = {"1 process": 1, "2 processes": 2, "4 processes": 4}
KINDS = {"cpu": ("jobs that compute for a millisecond", 2_500), "noop": ("jobs that do nothing", 20_000)}


def ask(ground: Ground, kind: str, rounds: int, *, jobs: int = 0, processes: Mapping[str, int] = PROCESSES) -> Table:
    """Jobs wait; so many processes begin at one moment; counted from the first job's start to the last one's."""
    title, enough = KINDS[kind]
    jobs = jobs or enough

    def once(side: Side) -> Mapping[str, float]:
        url = ground.fresh(side.program)
        fill(side, ground, url, jobs, kind)
        with tempfile.TemporaryDirectory() as folder:
            begin = Path(folder, "begin")
            orders = {"jobs": jobs, "kind": kind, "begin": str(begin)}
            programs = [Program(side, ground, url, "share", **orders) for _ in range(processes[side.name])]
            try:
                for program in programs:
                    program.first()
                before = cpu_of(ground.pid)
                begin.touch()
                answers = [program.answer() for program in programs]
            finally:
                for program in programs:
                    program.kill()
        served = cpu_of(ground.pid) - before
        if sorted(number for answer in answers for number in answer["numbers"]) != list(range(jobs)):
            raise Uncounted(f"{side.name}: a job was lost or ran twice")
        moments = [moment for answer in answers for moment in answer["moments"]]
        seconds = max(moments) - min(moments)
        cpu = sum(answer["cpu"] for answer in answers) / jobs * 1e6
        return {"rate": (jobs - 1) / seconds, "cpu": cpu, "server": served / seconds * 100}

    sides = [replace(TASKQ, name=name) for name in processes]
    return side_by_side(f"{ground.name}/scaling-{kind}", f"more processes, {title}", COLUMNS, sides, once, rounds)
