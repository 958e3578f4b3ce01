"""AS-45: an autoscaler that only looks at the queue follows a step of load up from nothing and down to nothing."""

import platform
import signal
from collections.abc import Callable
from math import ceil
from pathlib import Path

import anyio
import pytest

from taskq.testing.history import Started
from tests.e2e.harness import LONG, QUEUE, Client, Crew, Fleet, client

Rounds = Callable[[int, int], int]

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(3600)]

ON_ALL = ["sqlite", "redis", "postgres"]
RATE = 500
"""Jobs a second at the step."""
WORTH = 50
"""Waiting and running jobs that are worth a process."""


class Autoscaler:
    """So many processes as the queue is worth; those that are too many drain."""

    def __init__(self, fleet: Fleet, customer: Client) -> None:
        self.most = 0
        self._fleet = fleet
        self._admin = customer.app.admin
        self._places = range(fleet.crew.workers)
        self._leaving: set[int] = set()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            (queue,) = await self._admin.stats([QUEUE])
            self._scale(min(len(self._places), ceil((queue.ready + queue.leased) / WORTH)))
            await anyio.sleep(0.05)

    def _scale(self, wanted: int) -> None:
        alive = {place for place in self._places if self._fleet.alive(place)}
        self._leaving &= alive
        serving = sorted(alive - self._leaving)
        self.most = max(self.most, len(serving))
        for place in [place for place in self._places if place not in alive][: max(0, wanted - len(serving))]:
            self._fleet.start(place)
        for place in serving[wanted:]:
            self._leaving.add(place)
            self._fleet.terminate(place)


async def all_gone(fleet: Fleet) -> None:
    """Wait until no process is left, each of which ended as it should."""
    for place in range(fleet.crew.workers):
        if fleet.alive(place):
            assert await fleet.ended(place) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("url", ON_ALL if LONG else ON_ALL[:1], indirect=True)
async def test_processes_follow_the_load_from_none_to_none_and_lose_nothing(
    url: str, tmp_path: Path, rounds: Rounds, report: Callable[[str, str], None]
) -> None:
    seconds = rounds(1, 30)
    with Fleet(tmp_path, Crew(url=url, grace=0.1)) as fleet:
        async with client(fleet) as customer:
            scaler, decided = Autoscaler(fleet, customer), 0.0
            async with anyio.create_task_group() as beside:
                beside.start_soon(scaler.run)
                began = anyio.current_time()
                await customer.defer(customer.calls("work", [[0.02] for _ in range(RATE // 10)]))
                await fleet.started(1)
                decided = anyio.current_time() - began
                for tenth in range(1, seconds * 10):
                    await customer.defer(customer.calls("work", [[0.02] for _ in range(RATE // 10)]))
                    await anyio.sleep_until(began + tenth / 10)
                await customer.drained()
                await all_gone(fleet)
                before = fleet.count(Started)
                # Nobody is there, and one job is enough to change that.
                await customer.defer(customer.calls("work", [[0.02]]))
                await fleet.started(before + 1)
                await customer.drained()
                await all_gone(fleet)
                beside.cancel_scope.cancel()
        verdict = fleet.judge()
    report(
        f"scaling-{url.partition(':')[0]}",
        f"# A step of load on {url.partition(':')[0]}\n\n{RATE} jobs a second for {seconds} s, from no process to at "
        f"most {scaler.most} and back to none, and then one job for which one is started.\n\n| | |\n|---|---:|\n"
        f"| jobs | {verdict.counts['acknowledged']} |\n| lost | {len(verdict.offences['lost'])} |\n"
        f"| from the step to the first run, the start of a process in it | {decided:.2f} s |\n\n"
        f"Written by `make test-long`, Python {platform.python_version()}.\n",
    )
    assert verdict.holds, str(verdict)
    assert verdict.counts["completed"] == seconds * RATE + 1
    assert scaler.most > 1
    assert decided < 10.0 or not LONG
