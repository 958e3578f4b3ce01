"""Are the slots kept full? 1,000 jobs that wait 100 ms, on 100 slots: ideally one second."""

import asyncio
import tempfile
import time
from functools import partial

from benchmarks.measure import Comparison, compare
from taskq import App

JOBS, SLOTS, NAP = 1_000, 100, 0.1


def ideal() -> float:
    """Seconds that no scheduler can beat."""
    return JOBS * NAP / SLOTS


def taskq_on(scheme: str) -> float:
    """Seconds for all jobs, with the worker's start and end."""
    ran: list[int] = []

    async def main(url: str) -> float:
        app = App(url)

        @app.task(name="nap")
        async def nap(number: int) -> None:
            await asyncio.sleep(NAP)
            ran.append(number)

        async with app:
            await app.defer_many(nap.call(number) for number in range(JOBS))
            began = time.perf_counter()
            await app.run_worker(until="idle", slots=SLOTS)
            return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder:
        seconds = asyncio.run(main(f"{scheme}:///{folder}/taskq.db" if scheme == "sqlite" else f"{scheme}://"))
    assert sorted(ran) == list(range(JOBS)), "a job was lost or ran twice"
    return seconds


def run(rounds: int) -> list[Comparison]:
    """Within 1.15 times the ideal second."""
    return [
        compare(
            f"1,000 jobs of 100 ms on 100 slots, {scheme}",
            "s",
            {"taskq": partial(taskq_on, scheme), "ideal": ideal},
            rounds=rounds,
            bar="at most 1.15 ×",
            met=lambda ratio: ratio <= 1.15,
        )
        for scheme in ("memory", "sqlite")
    ]
