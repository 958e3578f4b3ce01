"""How soon behind its moment a job starts that was deferred for later, and the job of a tick."""

import os
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

import anyio
import pytest

from taskq import App, current
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import valkey as valkey
from tests.servers.fixtures import valkey_cluster as valkey_cluster
from tests.servers.tenants import queue_anywhere

pytestmark = pytest.mark.anyio

Row = Callable[[str, str, Mapping[str, object]], None]
JOBS, SECONDS = 500, 20
HEAD = f"""# How late a job starts that was deferred for later

{JOBS} jobs that are due at moments of their own in {SECONDS} seconds, and a schedule that fires every second, on one
worker that has nothing else to do. No job was early."""


@pytest.fixture(params=["memory", "sqlite", "valkey", "cluster", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return queue_anywhere(request, tmp_path)


@pytest.mark.long
@pytest.mark.skipif("TASKQ_TEST_LONG" not in os.environ, reason="it measures: make test-long")
async def test_b1_a_job_starts_at_its_moment(url: str, row: Row) -> None:
    app = App(url)
    late, ticks = list[float](), list[float]()

    @app.task
    async def start(due: float) -> None:
        late.append(time.time() - due)

    @app.schedule("every 1s")
    @app.task
    async def tick() -> None:
        moment = current().tick
        assert moment is not None
        ticks.append(time.time() - moment.timestamp())

    chance = random.Random(1)
    async with app, app.working():
        now = time.time() + 2
        moments = [now + chance.uniform(0, SECONDS) for _ in range(JOBS)]
        for moment in moments:
            await start.options(run_at=datetime.fromtimestamp(moment, UTC)).defer(moment)
        with anyio.fail_after(5 * SECONDS):
            while len(late) < JOBS or len(ticks) < SECONDS:  # noqa: ASYNC110 in any order
                await anyio.sleep(0.1)
    half, most = (quantiles(late, n=100)[cut] * 1000 for cut in (49, 98))
    shown = {"half within, ms": f"{half:.1f}", "99 % within, ms": f"{most:.0f}"}
    row("lateness", HEAD, {**shown, "every tick within, ms": f"{1000 * max(ticks):.0f}"})
    assert min(*late, *ticks) > -0.01
    assert most <= 250
