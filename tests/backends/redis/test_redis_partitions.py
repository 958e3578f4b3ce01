"""A queue that is split over hash tags uses several nodes, and keeps what does not need one line."""

import re
from collections.abc import Sequence

import pytest
from redis import RedisError
from taskq_redis import connect

from taskq.errors import BrokerRejected, ConfigError
from taskq.job import Ack, DeadLetter, JobRef
from taskq.testing.deployment import LONG, SOON, Deployment, a_job, ack, add, names, take, take_one
from tests.backends.redis.deployment import Tenant, keys
from tests.backends.redis.test_redis_moving import CLAUSES, EACH, run_clauses
from tests.servers.process import Process

UNKEPT = {
    # They have a group and a unique key.
    "test_c_e4_replace_keeps_group_and_attempt",
    "test_c_f2_a_delivery_carries_the_job_as_it_was_enqueued",
    # It expects the oldest first, whoever waits.
    "test_c_f7_waiting_members_hold_nobody_else_up",
}

pytestmark = [pytest.mark.anyio, pytest.mark.long]


@pytest.fixture
def tenant(valkey_cluster: list[Process]) -> Tenant:
    places = ",".join(f"127.0.0.1:{node.port}" for node in valkey_cluster)
    return Tenant(valkey_cluster, lambda user: f"redis+cluster://{user}{places}")


async def test_the_contract_holds_with_partitions(tenant: Tenant) -> None:
    deployment = Deployment(
        open=lambda: tenant.open(partitions=3),
        residue=tenant.residue,
        sever=tenant.sever,
        driver_errors=(RedisError, OSError),
    )
    chosen = [clause for clause in CLAUSES[1::EACH] if clause[1] not in UNKEPT]
    failed = await run_clauses(deployment, chosen)
    # No order, and no turns of tenants, over several partitions: passed over. The nodes are everybody's.
    undeclared = re.compile("this broker does not promise|this deployment cannot be restarted")
    assert not {clause: why for clause, why in failed.items() if not undeclared.match(why)}


async def test_jobs_of_one_queue_are_on_every_node_and_all_are_found(
    tenant: Tenant, valkey_cluster: Sequence[Process]
) -> None:
    async with tenant.open(partitions=12) as backend, tenant.open(partitions=12) as other:
        assert not backend.broker.traits.ordered
        assert backend.admin is not None
        assert backend.results is not None
        jobs = [a_job("q", f"{n:03}") for n in range(100)]
        await add(backend.broker, *jobs)
        assert not any(answer.added for answer in await other.broker.enqueue(jobs))
        assert all(keys(node, f"{{{tenant.namespace}:q*") for node in valkey_cluster)
        (stats,) = await backend.admin.stats(["q"])
        assert (stats.ready, [one.queue for one in await backend.admin.stats()]) == (100, ["q"])
        listed = await backend.admin.list_jobs("q", "ready", after="q-019", limit=30)
        assert [record.job.id for record in listed] == [job.id for job in jobs[20:50]]
        found = await backend.admin.find("q-007")
        assert found is not None
        assert found == await backend.admin.lookup(JobRef("q", "q-007"))
        deliveries = await take(other.broker, "q", 100)
        assert sorted(names(deliveries)) == [f"{n:03}" for n in range(100)]
        assert all(await other.broker.settle([Ack(delivery.receipt, b"done", LONG) for delivery in deliveries]))
        assert [await backend.results.outcome(JobRef("q", job.id), wait=SOON) for job in jobs[:5]] == [b"done"] * 5


async def test_groups_unique_keys_and_dead_letters_are_kept_in_their_partition(tenant: Tenant) -> None:
    async with tenant.open(partitions=12) as backend:
        assert backend.admin is not None
        await add(backend.broker, *(a_job("q", str(n), group=f"g{n % 5}") for n in range(20)))
        order: list[str] = []
        for _ in range(4):
            wave = await take(backend.broker, "q", 5)
            assert {delivery.job.group for delivery in wave} == {f"g{n}" for n in range(5)}
            order += sorted(names(wave), key=int)
            await ack(backend.broker, *wave)
        assert order == [str(n) for n in range(20)]
        for n in range(10):
            first, second = (a_job("u", f"{n}-{turn}", unique=f"k{n}") for turn in range(2))
            await add(backend.broker, first)
            (answer,) = await backend.broker.enqueue([second])
            assert (answer.id, answer.added) == (first.id, False)
        both = a_job("q", "both", group="g", unique="u")
        (refused,) = await backend.broker.enqueue([both])
        assert isinstance(refused.error, BrokerRejected)
        assert "both a group and a unique key" in str(refused.error)
        await add(backend.broker, a_job("d", group="g"))
        assert await backend.broker.settle([DeadLetter((await take_one(backend.broker, "d")).receipt, b"no", LONG)])
        dead, unknown = JobRef("d", "d-a"), JobRef("d", "d-b")
        assert await backend.admin.revive([dead, unknown]) == ["revived", "unknown"]
        assert await backend.admin.cancel([unknown, dead]) == [False, True]
        assert (await take_one(backend.broker, "d")).cancelled


async def test_a_queue_can_be_split_while_it_holds_jobs(tenant: Tenant) -> None:
    async with tenant.open() as backend:
        await add(backend.broker, *(a_job("q", str(n)) for n in range(20)))
    async with tenant.open(partitions=3) as backend:
        await add(backend.broker, *(a_job("q", str(n)) for n in range(20, 40)))
        assert sorted(names(await take(backend.broker, "q", 40)), key=int) == [str(n) for n in range(40)]


async def test_a_number_of_partitions_that_cannot_be_is_refused() -> None:
    for number in (0, 65):
        with pytest.raises(ConfigError, match="partitions is at least 1"):
            async with connect(f"redis://127.0.0.1:1?partitions={number}"):
                pass
