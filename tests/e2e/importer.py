"""One worker process of the import that is killed: ``python -m tests.e2e.importer DIRECTORY``, settings in ``TASKQ_…``.

What it does it writes into files of the directory, and what it must do but once it finds written there. When stdin
ends, so does it: no worker outlives the test that started it.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from taskq import App, BatchReport, Death
from taskq.call import Call

BATCH = "news"
LONG = "TASKQ_TEST_LONG" in os.environ
SLOTS = 100 if LONG else 10
KILLS_EVERY = 4000 if LONG else 100
"""A worker dies with as many runs under way as it has slots: more than one of a hundred is so interrupted."""
TAKES = 0.02
"""Seconds that a member takes, so that a worker's slots are full of runs."""
UNLUCKY = 10_000


def fails(n: int) -> bool:
    """Three members of a hundred."""
    return n % 33 == 7


def kills(n: int, every: int) -> bool:
    """One of so many, when it runs for the first time."""
    return n % every == 13


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def declare(app: App, directory: Path, every: int = KILLS_EVERY) -> None:
    """The tasks, one call of ``every`` of which kills; a client declares them, too, and runs none."""

    def note(file: str, line: object) -> None:
        with (directory / file).open("a") as lines:
            lines.write(f"{line}\n")

    def die_once(name: str) -> None:
        try:
            (directory / f"{name}.killed").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="send", retry=1, max_losses=UNLUCKY, idempotent=True)
    async def send(n: int) -> None:
        note("runs", n)
        if kills(n, every):
            die_once(f"member-{n}")
        await asyncio.sleep(TAKES)
        if fails(n):
            raise ValueError(n)

    @app.task(name="finished", idempotent=True)
    async def finished(batch: BatchReport) -> None:
        note("told", f"finished {batch.total} {batch.failed}")

    @app.task(name="then", idempotent=True)
    async def then(batch: BatchReport) -> None:
        note("told", f"then {batch.total} {batch.failed}")

    @app.task(name="first_failure", idempotent=True)
    async def first_failure(death: Death) -> None:
        note("told", f"first_failure {death.id.rpartition('.')[0]}")

    @app.task(name="import", queue="import", max_losses=UNLUCKY, idempotent=True)
    async def import_addresses(count: int) -> None:
        held = most = resident()

        def calls() -> Iterator[Call[None]]:
            nonlocal most
            for n in range(count):
                if n in (count // 3, 2 * count // 3):
                    die_once(f"import-{n}")
                if not n % 500:
                    most = max(most, resident())
                yield send.call(n)

        async with app.batch(BATCH, then=then, finished=finished, first_failure=first_failure) as batch:
            added = await batch.add(calls())
        note("imported", f"{added} {most - held}")


async def main(directory: Path) -> None:
    """Work until stdin ends, or something kills this process."""
    app = App()
    declare(app, directory, int(os.environ["KILLS_EVERY"]))
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), os._exit, 3)
    await app.run_worker()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
