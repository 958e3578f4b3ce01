"""AS-05 and AS-20: a batch whose producer is killed twice and whose workers die, and a bulk that is refused in part."""

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import anyio
import pytest

from taskq import App
from taskq.call import Call
from taskq.errors import Conflict
from taskq.flow import BatchStatus
from tests.e2e.conftest import STORIES
from tests.e2e.harness import backend_of
from tests.e2e.importer import BATCH, KILLS_EVERY, LONG, SLOTS, TAKES, declare, fails, kills, resident

pytestmark = [pytest.mark.anyio, pytest.mark.long]

ON_ALL = ["sqlite", "redis", "postgres", *(["cluster", "sqs"] if LONG else [])]
LEASE = 5.0 if LONG else 1.5
"""Seconds: long enough for a machine that has more to do, as what was lost twice runs alone."""


@contextmanager
def workers(url: str, directory: Path, queues: list[str], every: int) -> Generator[Callable[[], None]]:
    """Worker processes, one for each of these; the callable replaces the dead."""
    running: dict[int, subprocess.Popen[bytes]] = {}
    environment = {
        "TASKQ_URL": url,
        "TASKQ_SLOTS": str(SLOTS),
        "TASKQ_LEASE": str(LEASE),
        "KILLS_EVERY": str(every),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def replace() -> None:
        for place, queue in enumerate(queues):
            if place in running:
                if running[place].poll() is None:
                    continue
                running[place].communicate()
            running[place] = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.importer", directory],
                cwd=directory,
                env={**os.environ, **environment, "TASKQ_QUEUES": queue},
                stdin=subprocess.PIPE,
            )

    try:
        yield replace
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def lines(directory: Path, file: str) -> list[str]:
    path = directory / file
    return path.read_text().splitlines() if path.exists() else []


def killed(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*.killed")}


@STORIES
@pytest.mark.timeout(3600)
async def test_a_batch_whose_producer_and_workers_are_killed_tells_of_its_end_once(
    url: str, tmp_path: Path, rounds: Callable[[int, int], int], report: Callable[[str, str], None]
) -> None:
    count, every = rounds(500, 100_000), KILLS_EVERY
    if url.startswith("sqs"):
        # Of ten at a time its workers have fewer in hand.
        count, every = 10_000, 800
    began = monotonic()
    app = App(url)
    declare(app, tmp_path)
    async with app:
        await app.find_task("import").defer(count)
        batch = app.batch(BATCH)
        status: BatchStatus | None = None
        with workers(url, tmp_path, ["import", "default", "default"], every) as replace:
            with anyio.fail_after(rounds(300, 1500)):
                while status is None or status.over is None:
                    replace()
                    await anyio.sleep(0.2)
                    # Before, it would be a call for each of its live chunks.
                    if any(line.startswith("finished") for line in lines(tmp_path, "told")):
                        status = await batch.status()
                while any(queue.ready + queue.leased for queue in await app.admin.stats()):
                    replace()
                    await anyio.sleep(0.2)
        failed = sum(map(fails, range(count)))
        (stats,) = [queue for queue in await app.admin.stats() if queue.queue == "default"]
    assert (status.total, status.pending, status.failed) == (count, 0, failed)
    assert sorted(lines(tmp_path, "told")) == [f"finished {count} {failed}", f"first_failure {BATCH}.0"]
    assert stats.dead == failed
    runs = Counter(map(int, lines(tmp_path, "runs")))
    assert runs.keys() == set(range(count))
    died = killed(tmp_path)
    assert died == {f"import-{n}.killed" for n in (count // 3, 2 * count // 3)} | {
        f"member-{n}.killed" for n in range(count) if kills(n, every)
    }
    # What ran twice was under way when a worker died: its own slots at most, and what it had not settled.
    interrupted = sum(runs.values()) - count
    assert count // 100 <= interrupted <= 2.5 * SLOTS * len(died)
    (imported,) = lines(tmp_path, "imported")
    added, grown = map(int, imported.split())
    report(
        f"batch-{backend_of(url)}",
        import_report(
            url,
            every,
            {
                "members": status.total,
                "members pending in the end": status.pending,
                "members that failed, as they were to": f"{status.failed} of {failed}",
                "members that never ran": count - len(runs),
                "runs that a kill interrupted, and that were repeated": interrupted,
                "kills of workers": len(died) - 2,
                "kills of the producer": 2,
                "callbacks that ran": len(lines(tmp_path, "told")),
                "the producer's memory grew by": f"{grown / 1e6:.1f} MB",
                "all of it took": f"{monotonic() - began:.0f} s",
            },
        ),
    )
    assert added == count
    assert grown < 50e6


def import_report(url: str, every: int, rows: Mapping[str, object]) -> str:
    """What the run has shown, as a page."""
    shown = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"# A batch on {backend_of(url)}\n\n"
        "A job adds the members of a batch one by one from a generator, and is killed by SIGKILL after one and after "
        f"two thirds of them. One member of {every} kills its worker, once, and with it the runs in its {SLOTS} "
        f"slots, each of which takes {TAKES:g} s: more than one run of a hundred is interrupted so. Three of a hundred "
        "members fail. Two worker processes have the members, one the import; the batch has callbacks for its end and "
        "its first failure.\n\n"
        f"| | |\n|---|---:|\n{shown}\n\n"
        f"Written by `make test-long`, Python {platform.python_version()}.\n"
    )


@pytest.mark.parametrize("url", ON_ALL, indirect=True)
@pytest.mark.timeout(3600)
async def test_every_call_of_a_bulk_defer_has_an_outcome_and_what_was_refused_is_deferred_alone(
    url: str, rounds: Callable[[int, int], int]
) -> None:
    # An emulator of SQS would take hours for more.
    count = 20_000 if url.startswith("sqs") else rounds(20_000, 1_000_000)
    app = App(url)

    @app.task(name="note", idempotent=True)
    async def note(n: int) -> None: ...

    def calls() -> Iterator[Call[None]]:
        # One of a thousand is refused: its unique key is held.
        for n in range(count):
            task = note.options(unique="held", on_conflict="raise") if n % 1000 == 500 else note
            yield task.options(id=f"n{n}").call(n)

    async with app:
        await note.options(unique="held", delay=3600).defer(-1)
        held = most = resident()
        refused: list[int] = []
        number = 0
        async for answer in app.defer_each(calls()):
            if answer.error is not None:
                assert isinstance(answer.error, Conflict)
                refused.append(number)
            else:
                assert answer.id == f"n{number}"
            number += 1
            if not number % 1000:
                most = max(most, resident())
        assert number == count
        assert refused == list(range(500, count, 1000))
        again = await app.defer_many(note.options(id=f"n{n}").call(n) for n in refused)
        assert all(handle.added for handle in again)
        (stats,) = await app.admin.stats(["default"])
    assert stats.ready == count
    assert most - held < 50e6
