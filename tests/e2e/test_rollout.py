"""AS-07: new code takes over while jobs stream in and a long one runs; code that does not work changes nothing."""

import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from taskq.testing.history import Ended, Line, Started, read_all
from tests.cli.shell import Program, Ran, Shell
from tests.e2e.harness import LONG, Client, Crew, Fleet, backend_of, client

Rounds = Callable[[int, int], int]

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(3600)]

PROCESSES = 2
RATE = 50
"""Jobs a second."""
ON_ALL = ["sqlite", "redis", "cluster", "postgres"]


class Stream:
    """Defers short jobs at a steady rate."""

    def __init__(self, customer: Client) -> None:
        self.jobs = 0
        self._customer = customer

    async def run(self) -> None:
        """Defer until cancelled."""
        began = anyio.current_time()
        while True:
            with anyio.CancelScope(shield=True):
                assert await self._customer.defer(self._customer.calls("work", [[0.0]]))
            self.jobs += 1
            await anyio.sleep_until(began + self.jobs / RATE)


def runs(histories: Mapping[str, Sequence[Line]], job: str) -> list[tuple[str, type]]:
    """In which process a job began and ended."""
    return [
        (process, type(line.what))
        for process, lines in histories.items()
        for line in lines
        if isinstance(line.what, Started | Ended) and line.what.job == job
    ]


def starts(histories: Mapping[str, Sequence[Line]]) -> list[tuple[float, str]]:
    """When a job began, and with which version; in order."""
    return sorted(
        (line.at, process.partition(".")[0])
        for process, lines in histories.items()
        for line in lines
        if isinstance(line.what, Started)
    )


async def flows(fleet: Fleet, jobs: int) -> None:
    """Wait until so many more jobs have begun."""
    await fleet.started(fleet.count(Started) + jobs)


@pytest.mark.parametrize("more", [[], ["--preload"]] if LONG else [[]], ids="".join)
@pytest.mark.parametrize("url", ON_ALL if LONG else ON_ALL[:1], indirect=True)
async def test_a_rollout_under_a_stream_of_jobs_loses_none_and_runs_none_twice(
    url: str,
    more: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rounds: Rounds,
    report: Callable[[str, str], None],
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    shell = Shell(tmp_path, url=url)
    code = tmp_path / "mail.py"
    code.write_text("from tests.e2e.deployed import deploy\napp = deploy(version=1)\n")
    fleet = Fleet(tmp_path, Crew(url=url, workers=0, lease=30.0))
    gate = rounds(0, 10)

    async def say(program: Program, *words: str) -> str:
        return await anyio.to_thread.run_sync(program.line, *words)

    async def roll_out(code: int) -> Ran:
        return await anyio.to_thread.run_sync(partial(shell.run, "rollout", "state", code=code))

    options = ["--processes", str(PROCESSES), "--state-file", "state", "--gate", str(gate), "--grace", "0", *more]
    with fleet, shell.started("worker", "mail", *options) as program:
        await say(program, f"{PROCESSES} workers serve")
        async with client(fleet) as customer:
            began = anyio.current_time()
            (long,) = customer.calls("released", [[]])
            await customer.defer([long])
            await fleet.started(1)
            stream, memory = Stream(customer), ""
            async with anyio.create_task_group() as beside:
                beside.start_soon(stream.run)
                await flows(fleet, 20)
                code.write_text("raise RuntimeError('half a deploy')\n")
                assert "the old code goes on: worker" in (await roll_out(code=1)).err
                await flows(fleet, 20)
                assert {version for _, version in starts(read_all(tmp_path))} == {"version-1"}
                code.write_text("from tests.e2e.deployed import deploy\napp = deploy(version=2)\n")
                assert "generation 3 serves" in (await roll_out(code=0)).out
                memory = (await say(program, "makes way; together")).split("together ")[1].strip()
                await say(program, "marked in the history: rollout")
                await flows(fleet, 50)
                await anyio.sleep_until(began + rounds(0, 300))
                beside.cancel_scope.cancel()
            fleet.release.touch()
            await customer.drained()
        assert [mark["mark"] for mark in await anyio.to_thread.run_sync(shell.json, "history") if "mark" in mark] == [
            "rollout"
        ]
        program.send(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(program.code) == 0
        verdict = fleet.judge()
        histories = read_all(tmp_path)
    begun = starts(histories)
    gap = max(later - earlier for (earlier, _), (later, _) in pairwise(begun[1:]))
    rows = {
        "jobs": verdict.counts["acknowledged"],
        "lost": len(verdict.offences["lost"]),
        "runs beyond one a job": len(begun) - verdict.counts["acknowledged"],
        "begun by old code": sum(version == "version-1" for _, version in begun),
        "begun by new code": sum(version == "version-2" for _, version in begun),
        "longest time between two starts": f"{gap:.2f} s",
        "memory of old and new processes together": memory,
    }
    backend, seconds = backend_of(url), rounds(0, 300)
    report(
        "-".join(["rollout", backend, *(option.strip("-") for option in more)]),
        page(backend, gate, seconds, more, rows),
    )
    assert verdict.holds, str(verdict)
    assert len(begun) == verdict.counts["acknowledged"] == stream.jobs + 1
    (first, _), (last, _) = runs(histories, long.job.id)
    assert first == last
    assert first.startswith("version-1")
    assert begun[-1][1] == "version-2"
    assert gap < 1.0 or not LONG


def page(backend: str, gate: int, seconds: int, more: Sequence[str], rows: Mapping[str, object]) -> str:
    """What the run has shown, as a page."""
    shown = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"# Rollout on {' with '.join([backend, *map('`{}`'.format, more)])}\n\n"
        f"{RATE} jobs a second stream to {PROCESSES} processes, and a job of {seconds} s runs, while `taskq rollout` "
        f"is called twice, with a gate of {gate} s and a grace of 0 s: for code that fails at its import, and for code "
        "that works. The long job ended in the old process that began it, once.\n\n"
        f"| | |\n|---|---:|\n{shown}\n\n"
        f"Written by `make test-long`, Python {platform.python_version()}.\n"
    )
