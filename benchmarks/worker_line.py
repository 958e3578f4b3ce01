"""What does the whole worker line cost a job? No-op jobs on memory, 100 slots, against a bare loop of tasks."""

import asyncio
import time

from benchmarks.measure import Comparison, compare
from taskq import App

JOBS = 40_000
SLOTS = 100


def worker_line() -> float:
    """Microseconds a job: fetch, lease, decode, run, decide, settle."""
    app = App("memory://")
    ran: list[int] = []

    @app.task(name="noop")
    async def noop(number: int) -> None:
        ran.append(number)

    async def main() -> float:
        async with app:
            await app.defer_many(noop.call(number) for number in range(JOBS))
            began = time.perf_counter()
            await app.run_worker(until="idle", slots=SLOTS)
            return time.perf_counter() - began

    seconds = asyncio.run(main())
    assert sorted(ran) == list(range(JOBS)), "a job was lost or ran twice"
    return seconds / JOBS * 1e6


def bare_loop() -> float:
    """Microseconds a task: as many alive as there are slots, each one's end starts the next."""
    ran: list[int] = []

    async def noop(number: int) -> None:
        ran.append(number)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        numbers = iter(range(JOBS))

        def following(_done: object) -> None:
            number = next(numbers, None)
            if number is not None:
                loop.create_task(noop(number)).add_done_callback(following)
            elif len(ran) == JOBS and not over.done():
                over.set_result(None)

        began = time.perf_counter()
        for _ in range(SLOTS):
            following(None)
        await over
        return time.perf_counter() - began

    seconds = asyncio.run(main())
    assert len(ran) == JOBS
    return seconds / JOBS * 1e6


def run(rounds: int) -> list[Comparison]:
    """At most five times a bare loop."""
    question = "worker line on memory, no-op jobs, 100 slots"
    sides = {"taskq": worker_line, "create_task + done callback": bare_loop}
    return [compare(question, "µs a job", sides, rounds=rounds, bar="at most 5 ×", met=lambda ratio: ratio <= 5.0)]
