"""The network between a worker and its server does its worst, and no promise is broken."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest

from tests.e2e.harness import LONG
from tests.e2e.load import LEASE, Load, Loading
from tests.servers.process import Process
from tests.servers.proxy import Proxy, proxied
from tests.servers.tenants import queue_on

Rounds: TypeAlias = Callable[[int, int], int]
Between: TypeAlias = Callable[[float], AbstractAsyncContextManager[tuple[Load, Proxy]]]

BOTH, REQUESTS, REPLIES = frozenset({True, False}), frozenset({False}), frozenset({True})

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(params=["redis", *(["postgres"] if LONG else [])])
def between(request: pytest.FixtureRequest, tmp_path: Path, load: Loading) -> Between:
    """A worker and a producer that reach their server through a proxy, and wait so long for an answer."""
    server: Process = request.getfixturevalue(request.param)

    @asynccontextmanager
    async def through(patience: float) -> AsyncGenerator[tuple[Load, Proxy]]:
        waits = {"redis": "patience={0}", "postgres": "command_timeout={0}&connect_timeout={0}"}[request.param]
        async with proxied(server.port) as (proxy, port):
            url = queue_on(server).replace(f":{server.port}", f":{port}")
            async with load(f"{url}&{waits.format(patience)}", tmp_path) as loaded:
                yield loaded, proxy

    return through


async def test_replies_that_are_lost_cost_no_job_and_double_none(between: Between, rounds: Rounds) -> None:
    async with between(5.0) as (loaded, proxy):
        for _ in range(rounds(2, 20)):
            await loaded.brace()
            for _ in range(8):
                # Each is told: a job may be lost with the message that hands it over, and again with a fetch's answer.
                loaded.tell("reply lost")
                proxy.cutting = True
                await loaded.resumes(3)


async def test_connections_that_are_reset_again_and_again_cost_no_job(between: Between, rounds: Rounds) -> None:
    async with between(5.0) as (loaded, proxy):
        for _ in range(rounds(1, 20)):
            await loaded.brace()
            for _ in range(rounds(5, 10)):
                loaded.tell("reset")
                proxy.reset()
                await loaded.resumes(3)


@pytest.mark.parametrize("deaf", [BOTH, REQUESTS, REPLIES], ids=["both-ways", "requests", "replies"])
async def test_a_cable_that_is_pulled_for_longer_than_a_lease_costs_no_job(
    deaf: frozenset[bool], between: Between, rounds: Rounds
) -> None:
    async with between(LEASE / 2) as (loaded, proxy):
        for _ in range(rounds(1, 10)):
            await loaded.fault("cable")
            proxy.deaf = deaf
            await anyio.sleep(1.5 * LEASE)  # how long it lasts is what this is about
            proxy.deaf = frozenset()
            await loaded.resumes(20)


@pytest.mark.parametrize(("latency", "rate"), [(0.1, float("inf")), (0.0, 10_000.0)], ids=["200ms", "10kB/s"])
async def test_a_network_that_is_slow_or_narrow_breaks_no_promise(
    latency: float, rate: float, between: Between, rounds: Rounds
) -> None:
    async with between(5.0) as (loaded, proxy):
        proxy.latency, proxy.rate = latency, rate
        await loaded.flows(rounds(10, 500))
        proxy.rate = float("inf")
