"""What is lost with a server, by how it is configured: nothing, or a stretch of time that is told."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import anyio
import pytest
from redis.crc import key_slot
from taskq_redis import connect

from taskq.errors import BrokerUnavailable, PartlySettled
from taskq.job import Ack, Lease
from taskq.testing.deployment import LONG, SOON, a_job, add, names, nothing, take
from tests.backends.redis.deployment import command
from tests.backends.redis.flow import flowing
from tests.backends.redis.test_redis_cluster import sentinel_url, serves
from tests.servers import valkey
from tests.servers.process import Process

RESUMES = 5.0 if "TASKQ_TEST_LONG" in os.environ else 4 * SOON
"""Seconds within which jobs flow again once the servers can serve them; said at full size, on a machine with time."""

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("aof", ["always", "everysec", "none"])
async def test_a_killed_server_loses_no_more_than_its_configuration_says(
    aof: Literal["always", "everysec", "none"],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    with valkey.single(tmp_path, aof=aof) as server:
        async with connect(server.url) as backend, flowing(backend) as flow:
            await add(backend.broker, *(a_job("idle", str(n)) for n in range(100)))
            await flow.reaches(200)
            early = set(flow.answered)
            if aof != "none":
                valkey.await_written([server])
            server.kill()
            server.start()
            with anyio.fail_after(RESUMES):
                await flow.reaches(50)
            left = len(await backend.broker.fetch(["idle"], 100, lease=LONG, wait=0))
    print(f"appendfsync {aof}: {100 - left} of 100 jobs lost that waited")  # noqa: T201 the bound that was measured
    record_property(f"lost with {aof}", 100 - left)
    assert left == (0 if aof == "none" else 100)
    assert aof == "none" or not flow.lost & early
    assert aof != "always" or not flow.lost
    assert ("has lost" in caplog.text) == (aof == "none")
    assert not {name for name, count in flow.done.items() if count > 1} - flow.repeated


@pytest.mark.parametrize("wait_replicas", [0, 1])
async def test_a_failover_to_a_replica_that_lagged_loses_what_was_not_waited_for_and_says_how_much(
    wait_replicas: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with valkey.watched(tmp_path) as watched:
        async with connect(sentinel_url(watched), wait_replicas=wait_replicas, patience=1.0) as backend:
            await add(backend.broker, a_job("q", "copied"))
            assert await nothing(backend.broker, "other")
            command(watched.master, "WAIT", 1, 5000)
            watched.replica.pause()
            command(watched.master, "CLIENT", "KILL", "TYPE", "replica")
            answered = ["copied"]
            try:
                await backend.broker.enqueue([a_job("q", "not copied")])
                answered.append("not copied")
            except BrokerUnavailable as error:
                assert "of the 1 replicas" in str(error)  # noqa: PT017 with replicas that are waited for only
            assert len(answered) == 2 - wait_replicas
            assert await nothing(backend.broker, "other")
            watched.master.kill()
            watched.replica.resume()
            found: list[str] = []
            with anyio.fail_after(2 * SOON):
                while not found:
                    try:
                        found = names(await backend.broker.fetch(["other", "q"], 2, lease=LONG, wait=0))
                    except BrokerUnavailable:
                        await anyio.sleep(0.05)
        lost = set(answered) - set(found)
        assert lost == set(answered[1:])
        assert re.search(r"has lost the last \d+\.\d+ s of queue 'other'", caplog.text)


async def test_a_node_without_a_replica_takes_only_its_own_queues_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with valkey.cluster(tmp_path) as nodes:
        its, gone = on(nodes[1], 2)
        other, third = on(nodes[2], 2)
        async with connect(nodes[0].url, patience=1.0) as backend, flowing(backend, other) as flow:
            broker = backend.broker
            await add(broker, *(a_job(queue, f"{queue} {n}") for n in range(3) for queue in (its, third)))
            held = [*await take(broker, its), *await take(broker, third)]
            ends = [Ack(delivery.receipt) for delivery in held]
            valkey.await_written(nodes[1:2])
            nodes[1].kill()
            await flow.reaches(50)
            with pytest.raises(BrokerUnavailable):
                await broker.enqueue([a_job(its, "refused")])
            with pytest.raises(PartlySettled) as partly:
                await broker.settle(ends)
            assert partly.value.answers == [None, True]
            assert list(await broker.extend([delivery.receipt for delivery in held], LONG)) == [
                Lease.UNKNOWN,
                Lease.LOST,
            ]
            answers = await broker.enqueue([a_job(its, "refused"), a_job(third, "taken", delay=LONG)])
            assert [(type(answer.error), answer.added) for answer in answers] == [
                (BrokerUnavailable, False),
                (type(None), True),
            ]
            for wait in (0.0, SOON):
                assert names(await broker.fetch([its, third], 1, lease=LONG, wait=wait)) == [
                    f"{third} {1 if wait == 0 else 2}"
                ]
            with pytest.raises(BrokerUnavailable):
                await broker.fetch([its, third], 1, lease=LONG, wait=0.0)
            assert await broker.fetch([its, third], 1, lease=LONG, wait=0.1) == []
            with pytest.raises(BrokerUnavailable):
                await broker.fetch([its, gone], 1, lease=LONG, wait=SOON)
            await flow.reaches(50)
            nodes[1].start()
            valkey.await_all(nodes, "cluster_state:ok\r", "CLUSTER INFO")
            with anyio.fail_after(RESUMES):
                assert names(await take(broker, its)) == [f"{its} 1"]
            assert list(await broker.settle(ends)) == [True, False]
            await add(broker, a_job(third, "late"))
            held = [*await take(broker, its), *await take(broker, third)]
            async with connect(nodes[0].url, patience=LONG) as patient:
                await patient.broker.extend([held[0].receipt], LONG)
                nodes[1].pause()
                with anyio.fail_after(SOON):
                    leases = await patient.broker.extend([delivery.receipt for delivery in held], 1.0)
                nodes[1].resume()
                assert leases == [Lease.UNKNOWN, Lease.HELD]
        assert flow.done == Counter(flow.answered)
    told = [record.message for record in caplog.records if "does not answer" in record.message]
    assert [queue for message in told for queue in (its, gone) if repr(queue) in message] == [its, gone]


def on(node: Process, count: int) -> list[str]:
    """Queues that a node serves."""
    queues = (f"q{n}" for n in range(100))
    return [queue for queue in queues if serves(node, key_slot(f"{{taskq:{queue}}}".encode()))][:count]


async def test_a_full_server_that_throws_keys_away_by_their_time_to_live_throws_no_job_away(tmp_path: Path) -> None:
    with valkey.single(tmp_path) as server:
        async with connect(server.url) as backend:
            assert backend.store is not None
            await add(backend.broker, *(a_job("q", str(n), body=b"x" * 1000) for n in range(1000)))
            used = int(command(server, "INFO", "memory")["used_memory"])
            command(server, "CONFIG", "SET", "maxmemory", used + 500_000, "maxmemory-policy", "volatile-lru")
            for n in range(1000):
                await backend.store.swap(f"k{n}", None, b"x" * 1000, ttl=LONG)
            assert command(server, "INFO", "stats")["evicted_keys"] > 0
            assert len(await take(backend.broker, "q", 1000)) == 1000
