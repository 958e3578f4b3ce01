"""C-A1 to C-A4: errors, clocks, many callers, and what is left behind."""

# ruff: noqa: S101 (a contract is made of asserts)

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from taskq.broker import Backend
from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable
from taskq.job import Ack, DeadLetter, Nack
from taskq.testing.deployment import (
    LONG,
    SHORT,
    SOON,
    Deployment,
    a_job,
    ack,
    add,
    all_waiting,
    names,
    nothing,
    ref,
    take,
    take_one,
    wait_until,
)


class ConnectionClauses:
    """What a connection does at its edges."""

    async def test_c_a1_a_driver_error_leaves_as_ours_with_its_cause(
        self, backend: Backend, deployment: Deployment, queue: str
    ) -> None:
        if deployment.sever is None:
            pytest.skip("this deployment has no way to provoke a driver error")
        async with deployment.sever(backend):
            await _all_verbs_raise(backend, queue, deployment.driver_errors)

    async def test_c_a1_a_closed_connection_says_so_in_our_words(self, deployment: Deployment, queue: str) -> None:
        async with deployment.open() as closed:
            await add(closed.broker, a_job(queue))
        await _all_verbs_raise(closed, queue, ())

    async def test_c_a2_due_moments_are_the_backends(self, backend: Backend, other: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue, "clock"), a_job(queue, "clock-2"))
        first = await take_one(backend.broker, queue)
        second = await take_one(other.broker, queue)
        assert first.now <= second.now + 0.01
        await add(
            backend.broker, a_job(queue, "a", run_at=second.now + SHORT), a_job(queue, "b", run_at=second.now + LONG)
        )
        delivery = await take_one(other.broker, queue)
        assert names([delivery]) == ["a"]
        assert delivery.now >= second.now + SHORT - 0.001
        assert second.now + SHORT - 0.001 <= delivery.due <= delivery.now
        assert await nothing(backend.broker, queue)

    async def test_c_a3_any_number_of_tasks_may_call_at_once(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        done: list[str] = []

        async def produce(connection: Backend, part: int) -> None:
            for n in range(5):
                await add(connection.broker, a_job(queue, f"{part}-{n}"))

        async def consume(connection: Backend) -> None:
            while len(done) < 100:
                for delivery in await connection.broker.fetch([queue], 3, lease=LONG, wait=0.1):
                    assert list(await connection.broker.extend([delivery.receipt], LONG))
                    assert list(await connection.broker.settle([Ack(delivery.receipt)])) == [True]
                    done.extend(names([delivery]))

        with anyio.fail_after(4 * SOON):
            async with anyio.create_task_group() as tasks:
                for n in range(20):
                    tasks.start_soon(produce, (backend, other)[n % 2], n)
                    tasks.start_soon(consume, (backend, other)[n % 2])
        assert Counter(done) == Counter(f"{part}-{n}" for part in range(20) for n in range(5))

    async def test_c_a3_leaving_the_connection_ends_waiting_fetches(self, deployment: Deployment, queue: str) -> None:
        ended = 0

        async def wait(connection: Backend) -> None:
            nonlocal ended
            with suppress(BrokerUnavailable):
                assert list(await connection.broker.fetch([queue], 1, lease=LONG, wait=10 * SOON)) == []
            ended += 1

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks, deployment.open() as connection:
                for _ in range(3):
                    tasks.start_soon(wait, connection)
                await all_waiting(connection)
        assert ended == 3

    async def test_c_a3_a_fetch_that_is_roused_answers_at_once(self, backend: Backend, queue: str) -> None:
        if backend.rouse is None:
            pytest.skip("it cannot be roused")
        ended = anyio.Event()

        async def wait() -> None:
            assert list(await backend.broker.fetch([queue], 1, lease=LONG, wait=10 * SOON)) == []
            ended.set()

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await all_waiting(backend)
                backend.rouse()
                await ended.wait()
        await add(backend.broker, a_job(queue))
        assert await take_one(backend.broker, queue)

    async def test_c_a4_nothing_outlives_its_job(self, deployment: Deployment, queue: str) -> None:
        async with deployment.open() as backend:
            before = set(await deployment.residue())
            await _live_and_end(backend, queue)

            async def gone() -> bool:
                await nothing(backend.broker, queue)
                return set(await deployment.residue()) <= before

            await wait_until(gone)


async def _live_and_end(backend: Backend, queue: str) -> None:
    """Jobs of every kind, each brought to its end."""
    broker = backend.broker
    plain = [a_job(queue, str(n)) for n in range(20)]
    unique = [
        a_job(queue, f"u{until}", unique=f"k{until}", unique_until=until) for until in ("start", "success", "end")
    ]
    if broker.traits.unique:
        unique += [a_job(queue, "u-replaced", unique="kend", on_conflict="replace", delay=0.01)]
    groups = [a_job(queue, f"g{n}", group=f"g{n % 2}", group_limit=1 + n % 2) for n in range(6)]
    later = [a_job(queue, "later", delay=0.05), a_job(queue, "urgent", priority=9, headers={"h": "1"}, tenant="t")]
    await broker.enqueue([*plain, *unique, *groups, *later])
    expected = {job.id for job in [*plain, *unique[:3], *groups, *later]}
    again: set[str] = set()
    with anyio.fail_after(SOON):
        while expected:
            for delivery in await broker.fetch([queue], 10, lease=LONG, wait=1):
                job, receipt = delivery.job.id, delivery.receipt
                if job not in again:
                    again.add(job)
                    await broker.settle([Nack(receipt, 0, error=b"once more")])
                    continue
                expected.discard(job)
                letter = len(expected) % 3 == 0
                await broker.settle([DeadLetter(receipt, b"no", keep=SHORT) if letter else Ack(receipt, b"yes", SHORT)])
    await add(broker, a_job(queue, "lost"))
    await take(broker, queue, lease=SHORT)
    await ack(broker, await take_one(broker, queue))
    if backend.admin is not None:
        await add(broker, a_job(queue, "cancelled", delay=LONG))
        await backend.admin.cancel([ref(a_job(queue, "cancelled"))])
        await ack(broker, await take_one(broker, queue))
        await add(broker, a_job(queue, "dead", unique="dead"))
        await broker.settle([DeadLetter((await take_one(broker, queue)).receipt, b"no")])
        await backend.admin.purge([ref(a_job(queue, "dead"))])
    if backend.results is not None:
        await backend.results.outcome(ref(a_job(queue, "unknown")), wait=0.01)


async def _all_verbs_raise(backend: Backend, queue: str, causes: tuple[type[BaseException], ...]) -> None:
    broker = backend.broker
    verbs: dict[str, Callable[[], Awaitable[object]]] = {
        "enqueue": lambda: broker.enqueue([a_job(queue, "refused")]),
        "fetch": lambda: broker.fetch([queue], 1, lease=LONG, wait=0),
        "settle": lambda: broker.settle([Ack("unknown-1")]),
        "extend": lambda: broker.extend(["unknown-1"], LONG),
    }
    for name, call in verbs.items():
        with pytest.raises(BrokerError) as caught, anyio.fail_after(SOON):
            await call()
        assert isinstance(caught.value, BrokerUnavailable | BrokerRejected), name
        assert not causes or isinstance(caught.value.__cause__, causes), name
