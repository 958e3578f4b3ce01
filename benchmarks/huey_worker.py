# pyright: basic, reportMissingImports=false
"""huey's consumer on its own SQLite storage: ``python -m benchmarks.huey_worker THREADS [fsync]`` prints jobs/s."""

import sys
import tempfile
import time

from huey import SqliteHuey
from huey.consumer import Consumer

JOBS = 2_000


def rate(threads: int, *, fsync: bool) -> float:
    """Jobs a second, nothing kept."""
    ran: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        huey = SqliteHuey(filename=f"{folder}/huey.db", results=False, fsync=fsync)

        @huey.task()  # type: ignore[untyped-decorator]  # huey has no types
        def noop(number: int) -> None:
            ran.append(number)

        for number in range(JOBS):
            noop(number)
        consumer = Consumer(huey, workers=threads, periodic=False, initial_delay=0.001, max_delay=0.01)
        began = time.perf_counter()
        consumer.start()
        while len(ran) < JOBS:
            time.sleep(0.001)
        seconds = time.perf_counter() - began
        consumer.stop(graceful=True)
    assert sorted(ran) == list(range(JOBS)), "a job was lost or ran twice"
    return JOBS / seconds


if __name__ == "__main__":
    print(rate(int(sys.argv[1]), fsync=sys.argv[2:] == ["fsync"]))
