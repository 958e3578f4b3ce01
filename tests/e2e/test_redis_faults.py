"""Servers that forget and workers that die every few seconds: nothing is lost but what was told, and work goes on."""

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Literal

import anyio
import pytest

from taskq.testing.history import Answered, Fetched, Settled, read_all
from tests.e2e.harness import LONG, Fleet
from tests.e2e.load import SEED, Loading
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.tenants import queue_on

WINDOW = 2.0
"""Seconds of what it has confirmed that a server with ``appendfsync everysec`` may lose, as the guide says."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not LONG, reason="takes minutes; each day the same is tested within one process"),
]


@pytest.mark.parametrize(
    ("aof", "fault", "unpromised"),
    [
        # With a lease that is forgotten, what has begun begins again.
        pytest.param("everysec", "kill", {"lost", "overlapping", "stale", "misnumbered"}, id="redis-everysec-killed"),
        pytest.param("none", "kill", {"lost"}, id="redis-none-killed"),
        pytest.param("always", "FLUSHALL", {"lost"}, id="redis-emptied"),
    ],
)
async def test_work_goes_on_when_a_server_has_lost_what_it_did_not_promise_to_keep(
    aof: Literal["always", "everysec", "none"], fault: str, unpromised: set[str], tmp_path: Path, load: Loading
) -> None:
    moments: list[float] = []
    (tmp_path / "server").mkdir()
    with valkey.single(tmp_path / "server", aof=aof) as server:
        async with load(queue_on(server), tmp_path) as loaded:
            loaded.unpromised = frozenset(unpromised)
            for _ in range(30):
                await loaded.fault("loss")
                if fault == "kill":
                    server.kill()
                    moments.append(time.monotonic())
                    server.start()
                else:
                    valkey.ask(server, fault)
                    moments.append(time.monotonic())
                await loaded.resumes(20)
        noticed = (tmp_path / "workers.log").read_text().count("has lost ")
    touched = last_touched(loaded.fleet)
    for job in loaded.suffered:
        before = min(moment - at for moment in moments for at in touched[job] if at <= moment)
        assert before <= (WINDOW if aof == "everysec" else inf), f"{job} was touched {before:.3f} s before"
    assert noticed == 30 if aof != "everysec" else noticed or not loaded.suffered


def last_touched(fleet: Fleet) -> Mapping[str, Sequence[float]]:
    """When something was confirmed of each job: to its producer, or to the worker."""
    touched: defaultdict[str, list[float]] = defaultdict(list)
    for line in [line for lines in read_all(fleet.directory).values() for line in lines]:
        match line.what:
            case Answered(jobs, "ok"):
                for job in jobs:
                    touched[job].append(line.at)
            case Fetched(job) | Settled(job):
                touched[job].append(line.at)
            case _:
                pass
    return touched


async def test_work_goes_on_though_a_worker_is_killed_every_few_seconds(
    redis: Process, tmp_path: Path, load: Loading
) -> None:
    chance = random.Random(SEED)
    async with load(queue_on(redis), tmp_path, workers=4) as loaded:
        for _ in range(20):
            await loaded.fault("worker")
            place = chance.randrange(4)
            loaded.fleet.kill(place)
            await loaded.resumes(20)
            loaded.fleet.start(place)
            await anyio.sleep(chance.uniform(2.0, 20.0))  # how often it happens is what this is about
