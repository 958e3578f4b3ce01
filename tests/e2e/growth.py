"""One process runs jobs that do nothing, and tells how it grows: ``python -m tests.e2e.growth JOBS``, ``TASKQ_URL``.

It prints its resident bytes after each tenth of the jobs, as a JSON list.
"""

import asyncio
import json
import sys

from taskq import App
from taskq.events import JobFinished
from taskq.worker.memory import memory_of

WAVE = 1_000
"""So many wait at once: a queue in memory must not be what grows."""


async def main(jobs: int) -> list[int]:
    """Run so many jobs in one worker; all have to return."""
    app = App(slots=100)
    ended = 0
    wave_over = asyncio.Event()

    @app.task(name="noop", idempotent=True)
    async def noop(number: int) -> None: ...

    def count(event: JobFinished) -> None:
        nonlocal ended
        assert event.end == "returned", event
        ended += 1
        if ended % WAVE == 0:
            wave_over.set()

    app.events.subscribe(JobFinished, count)
    sizes: list[int] = []
    async with app, app.working():
        for first in range(0, jobs, WAVE):
            await app.defer_many(noop.call(number) for number in range(first, first + WAVE))
            await wave_over.wait()
            wave_over.clear()
            if (first + WAVE) * 10 // jobs > len(sizes):
                sizes.append(memory_of("self"))
    assert ended == jobs
    return sizes


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1])))))  # noqa: T201 what it is for
