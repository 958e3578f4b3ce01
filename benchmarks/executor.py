"""Do jobs in child processes use the cores, and does the event loop stay free meanwhile?"""

import asyncio
import statistics
import time
from functools import partial

from benchmarks.measure import Comparison, compare
from benchmarks.peers.recorder import burn
from taskq import App

JOBS = 200
BURNS = 20
"""About ten milliseconds a job."""
LOOK = 0.005


def compute(number: int) -> int:
    """A job; child processes import it by its name."""
    return number + sum(burn() for _ in range(BURNS))


def measured(processes: int) -> tuple[float, float]:
    """Jobs a second, and the event loop's lag in milliseconds, the 99th percentile."""
    app = App("memory://", processes=processes)
    task = app.task(name="compute", executor="process")(compute)
    lags: list[float] = []

    async def look() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LOOK)
            lags.append(time.perf_counter() - before - LOOK)

    async def main() -> float:
        async with app, app.working():
            await asyncio.gather(
                *[job.result() for job in await app.defer_many(task.call(n) for n in range(processes))]
            )
            looking = asyncio.create_task(look())
            began = time.perf_counter()
            await asyncio.gather(*[job.result() for job in await app.defer_many(task.call(n) for n in range(JOBS))])
            seconds = time.perf_counter() - began
            looking.cancel()
            return seconds

    rate = JOBS / asyncio.run(main())
    return rate, statistics.quantiles(lags, n=100)[-1] * 1e3


def rate(processes: int) -> float:
    """Jobs a second."""
    return measured(processes)[0]


def lag() -> float:
    """Milliseconds."""
    return measured(2)[1]


def allowed() -> float:
    """Milliseconds."""
    return 50.0


def run(rounds: int) -> list[Comparison]:
    """Two cores do at least 1.6 times as much as one, and the loop answers within 50 ms."""
    return [
        compare(
            'CPU jobs with executor="process", 2 processes',
            "jobs/s",
            {"taskq": partial(rate, 2), "1 process": partial(rate, 1)},
            rounds=rounds,
            bar="at least 1.6 ×",
            met=lambda ratio: ratio >= 1.6,
        ),
        compare(
            "lag of the event loop meanwhile, 99th percentile",
            "ms",
            {"taskq": lag, "allowed": allowed},
            rounds=rounds,
            bar="at most 1 ×",
            met=lambda ratio: ratio <= 1.0,
        ),
    ]
