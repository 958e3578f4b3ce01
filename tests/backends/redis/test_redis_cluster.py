"""What happens to a cluster, and to a master under Sentinel, while jobs flow."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import pytest
from redis.crc import key_slot
from taskq_redis import connect
from taskq_redis.broker import RedisBroker
from taskq_redis.servers import Cluster

from taskq.broker import Backend
from taskq.errors import BrokerUnavailable
from taskq.job import Ack
from taskq.testing.deployment import LONG, SOON, a_job, names
from tests.backends.redis.deployment import command
from tests.backends.redis.flow import Flow
from tests.servers import valkey
from tests.servers.process import Process

pytestmark = pytest.mark.anyio


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Process]]:
    with valkey.cluster(tmp_path) as nodes:
        yield nodes


def move(nodes: Sequence[Process], slot: int) -> Iterator[str]:
    """Move a slot to another node, key by key; stops where a user could look."""
    (source,) = (node for node in nodes if serves(node, slot))
    target = next(node for node in nodes if node is not source)
    ids = {node: command(node, "CLUSTER", "MYID").decode() for node in nodes}
    command(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    yield "begun"
    while keys := command(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
        command(source, "MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
        yield "moved a key"
    yield "moved all"
    for node in (target, source, *nodes):
        command(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])


def serves(node: Process, slot: int) -> bool:
    (own,) = (line.split() for line in command(node, "CLUSTER", "NODES").decode().splitlines() if "myself" in line)
    ranges = (part.partition("-") for part in own[8:] if not part.startswith("["))
    return any(int(first) <= slot <= int(end or first) for first, _, end in ranges)


async def test_a_slot_that_moves_is_followed_and_nobody_sees_it(nodes: list[Process]) -> None:
    places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    async with connect(f"redis+cluster://{places}") as backend:
        assert isinstance(backend.broker, RedisBroker)
        servers = backend.broker._tools.client.servers  # pyright: ignore[reportPrivateUsage]
        assert isinstance(servers, Cluster)
        flow = Flow(backend, "q")
        with anyio.fail_after(3 * SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(flow.produce)
                tasks.start_soon(flow.consume)
                await flow.reaches(50)
                for _ in move(nodes, key_slot(b"{taskq:q}")):
                    await anyio.sleep(0.05)
                await flow.reaches(50)
                flow.enough = True
        assert flow.done == Counter(flow.answered)
        assert servers.redirections["MOVED"] >= 1
        assert servers.redirections["ASK"] + servers.redirections["TRYAGAIN"] >= 1


async def test_a_cluster_is_found_out_from_the_plain_url_of_one_node(nodes: list[Process]) -> None:
    async with connect(nodes[0].url) as backend:
        queues = [f"q{n}" for n in range(12)]
        await backend.broker.enqueue([a_job(queue) for queue in queues])
        got = await backend.broker.fetch(queues, 100, lease=LONG, wait=1)
        assert [delivery.job.queue for delivery in got] == queues
        assert all(await backend.broker.settle([Ack(delivery.receipt) for delivery in got]))
        assert backend.admin is not None
        assert await backend.admin.stats() == []


async def test_a_failed_node_is_replaced_and_consumption_goes_on(tmp_path: Path) -> None:
    with valkey.cluster(tmp_path, replicas=3) as nodes:
        (victim,) = (node for node in nodes[:3] if serves(node, key_slot(b"{taskq:q}")))
        async with connect(nodes[0].url, patience=1.0) as backend:
            await flows_on_without(backend, victim)


async def test_a_failover_under_sentinel_is_followed(tmp_path: Path) -> None:
    with valkey.watched(tmp_path) as watched:
        async with connect(sentinel_url(watched), patience=1.0) as backend:
            await flows_on_without(backend, watched.master)


async def test_a_master_that_no_sentinel_knows_is_unavailable(tmp_path: Path) -> None:
    with (
        valkey.single(tmp_path, sentinel=True) as sentinel,
        pytest.raises(BrokerUnavailable, match="no sentinel knows a master 'main'"),
    ):
        async with connect(f"redis+sentinel://127.0.0.1:{sentinel.port}/main"):
            pass


async def test_what_a_replica_has_confirmed_outlives_the_master(tmp_path: Path) -> None:
    with valkey.watched(tmp_path) as watched:
        url = sentinel_url(watched)
        async with connect(url, wait_replicas=1) as backend:
            assert backend.broker.traits.durability == "replicated"
            jobs = [a_job("q", str(n)) for n in range(2500)]
            assert all(answer.added for answer in await backend.broker.enqueue(jobs))
            watched.master.kill()
        found: set[str] = set()
        with anyio.fail_after(2 * SOON):
            while len(found) < 2500:
                try:
                    # The first sentinel is away as well.
                    async with connect(url.replace(str(watched.sentinels[0].port), "1")) as backend:
                        while got := await backend.broker.fetch(["q"], 1000, lease=LONG, wait=0):
                            found |= {delivery.job.id for delivery in got}
                except BrokerUnavailable:
                    await anyio.sleep(0.05)


def sentinel_url(watched: valkey.Watched) -> str:
    places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in watched.sentinels)
    return f"redis+sentinel://{places}/{watched.name}"


async def flows_on_without(backend: Backend, victim: Process) -> None:
    """Jobs flow again after this server was killed; what it had not yet passed on may be lost, and little of it is."""
    flow = Flow(backend, "q")
    with anyio.fail_after(3 * SOON):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flow.produce)
            tasks.start_soon(flow.consume)
            await flow.reaches(20)
            victim.kill()
            await flow.reaches(50)
            flow.enough = True
    assert len(flow.lost) <= 5, flow.lost


async def test_too_few_replicas_are_an_error_and_the_job_is_not_lost(tmp_path: Path) -> None:
    with valkey.single(tmp_path) as server:
        async with connect(server.url, patience=0.5, wait_replicas=1) as backend:
            with pytest.raises(BrokerUnavailable, match="0 of the 1 replicas"):
                await backend.broker.enqueue([a_job("q")])
            assert names(await backend.broker.fetch(["q"], 1, lease=LONG, wait=0)) == ["a"]
