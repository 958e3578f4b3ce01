"""AS-45: a toy autoscaler on what workers and broker tell follows a step of load, down to nothing and up again."""

import asyncio
import os
import platform
import sys
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from signal import SIGTERM

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskq import App
from taskq.testing.history import Started
from tests.cli.shell import Program, Shell
from tests.e2e.harness import LONG, PATIENCE, QUEUE, Client, Crew, Fleet, client

pytestmark = [
    *(pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(1800)),
    pytest.mark.skipif(not LONG, reason="to start four processes one after the other takes longer than a sample may"),
]

SLOTS = 8
MOST = 4
"""Workers at once."""
BURST, BURSTS = 50, 10
"""Jobs of one call, and such calls a second, while there is load."""
SPAN = 60
"""Seconds of load."""
SECONDS = 0.03
"""What a job takes: 500 a second need two workers, and a third at a slot use of 80 %."""
TARGET = 5.0
"""Seconds in which the backlog is to be worked off."""
CALM = 3
"""Looks that have to agree before a worker is taken away."""


def wanted(waiting: int, backlog: float, used: float) -> int:
    """Workers that the triggers of ``examples/deploy/keda-scaledobject.yaml`` ask for; none when there are no jobs."""
    if not waiting:
        return 0
    return min(MOST, max(1, ceil(backlog / (TARGET * SLOTS)), ceil(used / (0.8 * SLOTS))))


class Autoscaler:
    """Starts and terminates ``taskq worker`` by what it reads from their pages, and from the broker."""

    def __init__(self, shell: Shell, app: App, stack: ExitStack) -> None:
        self._shell = shell
        self._app = app
        self._stack = stack
        self._pages: dict[Program, str] = {}
        self._looks: list[int] = []
        self._changed = asyncio.Event()
        self.decisions: list[tuple[float, int]] = []
        """When so many workers came to be wanted."""
        self.victims: list[Program] = []

    async def run(self) -> None:
        """Look, decide and act until cancelled."""
        while True:
            await self._scale(wanted(*await self._look()))
            # As a scraper does.
            await anyio.sleep(1.0)

    async def at(self, workers: int) -> None:
        """Wait until it has decided to have so many; none once no job is left, however long that takes."""
        with anyio.fail_after(10 * SPAN):
            while len(self._pages) != workers:
                self._changed.clear()
                await self._changed.wait()

    async def _look(self) -> tuple[int, float, float]:
        """Jobs there are, seconds of work that wait, slots in use."""
        (stats,) = await self._app.admin.stats([QUEUE])
        pages = await asyncio.gather(*(asyncio.to_thread(read, page) for page in self._pages.values()))
        backlog = max((page.get("taskq_queue_backlog_seconds", 0.0) for page in pages), default=0.0)
        used = sum(page.get("taskq_slots_used", 0.0) for page in pages)
        return stats.ready + stats.leased, backlog, used

    async def _scale(self, workers: int) -> None:
        self._looks = [*self._looks[1 - CALM :], workers]
        while len(self._pages) < workers:
            self.decisions.append((anyio.current_time(), len(self._pages) + 1))
            program = self._stack.enter_context(self._shell.started("worker", "mail", "--listen", "0"))
            line = await asyncio.to_thread(program.line, "listening on")
            self._pages[program] = f"http://{line.split('listening on ')[1].strip()}/metrics"
            self._changed.set()
        while len(self._looks) == CALM and len(self._pages) > max(self._looks):
            victim = [*self._pages][-1]
            del self._pages[victim]
            victim.send(SIGTERM)
            self.victims.append(victim)
            self._changed.set()


def read(url: str) -> dict[str, float]:
    """A worker's page, of each metric the largest."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=PATIENCE) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    page: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        page[sample.name] = max(sample.value, page.get(sample.name, 0.0))
    return page


async def stream(customer: Client, bursts: int) -> None:
    """Defer bursts at a steady rate."""
    began = anyio.current_time()
    for burst in range(bursts):
        assert await customer.defer(customer.calls("work", [[SECONDS] for _ in range(BURST)]))
        await anyio.sleep_until(began + (burst + 1) / BURSTS)


async def test_as_45_workers_follow_the_load_down_to_none_and_lose_no_job(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    report: Callable[[str, str], None],
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    shell = Shell(tmp_path, url=url)
    (tmp_path / "mail.py").write_text("from tests.e2e.deployed import deploy\napp = deploy(version=1)\n")
    (tmp_path / "taskq.toml").write_text(f"slots = {SLOTS}\nlease = 30\n")
    step: list[tuple[float, int]] = []
    with Fleet(tmp_path, Crew(url=url, workers=0, lease=30.0)) as fleet, ExitStack() as stack:
        async with client(fleet) as customer:
            scaler = Autoscaler(shell, customer.app, stack)
            async with anyio.create_task_group() as beside:
                beside.start_soon(scaler.run)
                # Every slot of the first is taken, and as many jobs wait.
                await customer.defer(customer.calls("released", [[] for _ in range(2 * SLOTS)]))
                await fleet.started(2 * SLOTS)
                fleet.release.touch()
                await scaler.at(0)
                began, before = anyio.current_time(), len(scaler.decisions)
                await stream(customer, SPAN * BURSTS)
                await scaler.at(0)
                step += [(at - began, workers) for at, workers in scaler.decisions[before:]]
                beside.cancel_scope.cancel()
        codes = [await asyncio.to_thread(victim.code) for victim in scaler.victims]
        verdict = fleet.judge()
        runs = fleet.count(Started)
    report(f"autoscaling-{url.partition(':')[0]}", autoscaling_report(url, step, len(codes), runs))
    assert verdict.holds, str(verdict)
    assert runs == verdict.counts["acknowledged"]
    assert set(codes) == {0}
    assert next(at for at, workers in step if workers == 3) < 10.0


def autoscaling_report(url: str, step: Sequence[tuple[float, int]], victims: int, runs: int) -> str:
    """What the run has shown, as a page."""
    shown = "\n".join(f"| {workers} | {at:.1f} |" for at, workers in step)
    return (
        f"# Autoscaling on {url.partition(':')[0]}\n\n"
        f"No worker runs, until {BURST * BURSTS} jobs a second of {SECONDS:g} s each come for {SPAN} s, and then "
        "none. A toy autoscaler reads what workers tell at `/metrics` and what waits in the broker, as the KEDA "
        f"object in `examples/deploy` does, with a target of {TARGET:g} s and {SLOTS} slots a worker.\n\n"
        f"Jobs lost: 0. Runs: {runs}, one a job. Workers taken away, each after its drain: {victims}.\n\n"
        f"| workers wanted | after, s |\n|---:|---:|\n{shown}\n\n"
        f"Written by `make test-long`, Python {platform.python_version()}.\n"
    )
