"""A primary fails over, or half of the workers is cut off, and worker processes and a producer go on."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from uuid import uuid4

import anyio
import pytest
from redis.crc import key_slot

from taskq.testing.history import Started, read
from tests.backends.redis.test_redis_cluster import sentinel_url, serves
from tests.e2e.harness import LONG, PATIENCE, QUEUE
from tests.e2e.load import LEASE, RESUMES, Loading
from tests.servers import valkey
from tests.servers.process import Process
from tests.servers.proxy import proxied
from tests.servers.tenants import queue_on, queue_on_cluster

Kind = Literal["sentinel", "cluster"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not LONG, reason="takes minutes; each day the same is tested within one process"),
]


@contextmanager
def copied(kind: Kind, directory: Path) -> Generator[tuple[Sequence[Process], str]]:
    """Servers of which each has a replica, and the URL of a namespace on them."""
    if kind == "sentinel":
        with valkey.watched(directory) as watched:
            yield [watched.master, watched.replica], f"{sentinel_url(watched)}?namespace=t{uuid4().hex[:12]}"
        return
    with valkey.cluster(directory, replicas=3) as nodes:
        yield nodes, queue_on_cluster(nodes)


async def primary(nodes: Sequence[Process], kind: Kind, url: str) -> Process:
    """The node that takes the queue's writes; waits until there is one."""
    slot = key_slot(f"{{{url.partition('namespace=')[2]}:{QUEUE}}}".encode())
    with anyio.fail_after(PATIENCE):
        while True:
            for node in nodes:
                leads = node.running and "role:master\r" in valkey.ask(node, "INFO replication")
                if leads and (kind == "sentinel" or serves(node, slot)):
                    return node
            await anyio.sleep(0.05)


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_as_29_no_job_is_lost_when_a_primary_fails_over(kind: Kind, tmp_path: Path, load: Loading) -> None:
    (tmp_path / "servers").mkdir()
    with copied(kind, tmp_path / "servers") as (nodes, url):
        async with load(f"{url}&wait_replicas=1&patience=2", tmp_path) as loaded:
            for _ in range(3):
                await loaded.fault("failover")
                victim = await primary(nodes, kind, url)
                victim.kill()
                await primary(nodes, kind, url)
                # Without a replica no defer is answered.
                await loaded.resumes(5, answered=False)
                victim.start()
                await loaded.flows(20)


@pytest.mark.parametrize(
    ("name", "patience"),
    [("redis", "patience={0}"), ("postgres", "command_timeout={0}&connect_timeout={0}")],
    ids=["redis", "postgres"],
)
async def test_as_29_half_of_the_workers_is_cut_off_and_works_on_when_it_is_not(
    name: str, patience: str, request: pytest.FixtureRequest, tmp_path: Path, load: Loading
) -> None:
    server: Process = request.getfixturevalue(name)
    url = f"{queue_on(server)}&{patience.format(LEASE / 2)}"
    async with proxied(server.port) as (proxy, port):
        detour = url.replace(f":{server.port}", f":{port}")

        def runs() -> list[int]:
            journals = (tmp_path / f"worker-{place}.{place + 1}.journal" for place in (1, 3))
            return [sum(isinstance(line.what, Started) for line in read(path)) for path in journals]

        async def both_run(patience: float, before: Sequence[int]) -> None:
            with anyio.fail_after(patience):
                # Seldom, as the proxy stands still meanwhile.
                while not all(now > then for now, then in zip(runs(), before, strict=True)):  # noqa: ASYNC110
                    await anyio.sleep(0.3)

        async with load(url, tmp_path, workers=4, detour=detour) as loaded:
            await both_run(PATIENCE, [0, 0])
            for _ in range(3):
                await loaded.fault("partition")
                proxy.deaf = frozenset({True, False})
                await anyio.sleep(30.0)  # how long it lasts is what this is about
                await loaded.fill()
                before, proxy.deaf = runs(), frozenset()
                await both_run(RESUMES, before)
                await loaded.flows(20)
