"""What a backend promises that discards and settles as one: see :class:`~taskq.broker.DiscardAndSettle`."""

# ruff: noqa: S101 (a contract is made of asserts)

import anyio
import pytest

from taskq.broker import Backend, DiscardAndSettle
from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable
from taskq.job import Ack, Settlement
from taskq.store import Store
from taskq.testing.deployment import (
    LONG,
    SHORT,
    Deployment,
    a_job,
    add,
    names,
    nothing,
    part,
    pass_lease,
    ref,
    take,
)


class LeavingClauses:
    """Members of a key whose jobs are settled as they leave; skipped where the backend cannot do both as one."""

    async def test_leaving_settles(self, backend: Backend, other: Backend, queue: str) -> None:
        discard_and_settle, store = _parts(backend)
        await store.add(queue, ["a", "b", "c"])
        await add(backend.broker, a_job(queue, "a"), a_job(queue, "b"), a_job(queue, "c"))
        first, second, third = await take(backend.broker, queue, 3)
        settlements = [Ack(first.receipt, b"done", LONG), Ack("void"), Ack(second.receipt), Ack(second.receipt)]
        assert await discard_and_settle(queue, ["a", "b", "stranger"], settlements) == [True, False, True, False]
        assert (await store.get(queue)).members == {"c"}
        assert list(await other.broker.settle([Ack(one.receipt) for one in (first, second, third)])) == [
            False,
            False,
            True,
        ]
        if other.results is not None:
            assert await other.results.outcome(ref(a_job(queue, "a")), wait=0) == b"done"

    async def test_leaving_last_settles_nothing(self, backend: Backend, queue: str) -> None:
        discard_and_settle, store = _parts(backend)
        await store.swap(queue, None, b"1")
        await store.add(queue, ["a", "b"])
        await add(backend.broker, a_job(queue, "a"), a_job(queue, "b"))
        acks = [Ack(delivery.receipt) for delivery in await take(backend.broker, queue, 2)]
        for _ in range(2):
            assert await discard_and_settle(queue, ["a", "b"], acks) is None
            assert (await store.get(queue)).members == frozenset()
        assert await discard_and_settle(f"{queue}-absent", ["a"], acks) is None
        assert list(await backend.broker.settle(acks)) == [True, True]
        await store.add(queue, ["a"])
        assert (await store.get(queue)).members == frozenset()

    async def test_leaving_again_is_as_settling_again(self, backend: Backend, other: Backend, queue: str) -> None:
        discard_and_settle, store = _parts(backend)
        await store.add(queue, ["a", "b"])
        await add(backend.broker, a_job(queue, "a"))
        (delivery,) = await take(backend.broker, queue)
        assert await discard_and_settle(queue, ["a"], [Ack(delivery.receipt)]) == [True]
        assert await _parts(other)[0](queue, ["a"], [Ack(delivery.receipt)]) == [False]
        assert (await store.get(queue)).members == {"b"}
        assert await nothing(backend.broker, queue)

    async def test_leaving_counts_though_the_lease_is_lost(self, backend: Backend, queue: str) -> None:
        discard_and_settle, store = _parts(backend)
        await store.add(queue, ["a", "b"])
        await add(backend.broker, a_job(queue, "a"))
        (late,) = await take(backend.broker, queue, lease=SHORT)
        await pass_lease(backend.broker, queue)
        (again,) = await take(backend.broker, queue)
        assert await discard_and_settle(queue, ["a"], [Ack(late.receipt)]) == [False]
        assert (await store.get(queue)).members == {"b"}
        assert list(await backend.broker.settle([Ack(again.receipt)])) == [True]

    async def test_leaving_of_racing_halves_one_is_last(self, backend: Backend, other: Backend, queue: str) -> None:
        _, store = _parts(backend)
        for number in range(10):
            key = f"{queue}-{number}"
            await store.add(key, ["a", "b"])
            await add(backend.broker, a_job(queue, f"a{number}"), a_job(queue, f"b{number}"))
            deliveries = await take(backend.broker, queue, 2)
            answers: list[object] = []

            async def leave(by: Backend, key: str, member: str, settlement: Settlement, answers: list[object]) -> None:
                answers.append(await _parts(by)[0](key, [member], [settlement]))

            async with anyio.create_task_group() as group:
                for by, member, delivery in zip((backend, other), "ab", deliveries, strict=True):
                    group.start_soon(leave, by, key, member, Ack(delivery.receipt), answers)
            assert sorted(answers, key=str) == [None, [True]]
            settled = await backend.broker.settle([Ack(delivery.receipt) for delivery in deliveries])
            assert sorted(settled) == [False, True], names(deliveries)

    async def test_leaving_fails_whole_and_in_our_words(self, deployment: Deployment, queue: str) -> None:
        async with deployment.open() as closed:
            discard_and_settle, _ = _parts(closed)
        with pytest.raises(BrokerError) as caught:
            await discard_and_settle(queue, ["a"], [])
        assert isinstance(caught.value, BrokerUnavailable | BrokerRejected)


def _parts(backend: Backend) -> tuple[DiscardAndSettle, Store]:
    return part(backend.discard_and_settle, "discarding and settling as one"), part(backend.store, "store")
