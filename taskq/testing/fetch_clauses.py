"""C-F1 to C-F6: what a fetch promises."""

# ruff: noqa: S101 (a contract is made of asserts)

from collections import Counter

import anyio
import pytest

from taskq.broker import Backend
from taskq.job import Ack, Delivery, Job, Lease, Nack
from taskq.testing.deployment import (
    LONG,
    SHORT,
    SOON,
    a_job,
    ack,
    add,
    all_waiting,
    names,
    needs,
    nothing,
    pass_lease,
    take,
    take_one,
)


class FetchClauses:
    """Leases, attempts, order and waiting."""

    # C-F1: due jobs under no live lease

    async def test_c_f1_a_job_that_is_not_due_is_not_fetched(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue, "clock"))
        now = (await take_one(backend.broker, queue)).now
        await add(backend.broker, a_job(queue, "delay", delay=LONG), a_job(queue, "run-at", run_at=now + 3600))
        assert await nothing(backend.broker, queue)

    async def test_c_f1_a_moment_in_the_past_is_now(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue, run_at=1.0))
        delivery = await take_one(backend.broker, queue)
        assert delivery.now - delivery.due < SOON

    async def test_c_f1_at_most_limit_jobs_come(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, *(a_job(queue, str(n)) for n in range(10)))
        first = await backend.broker.fetch([queue], 4, lease=LONG, wait=1)
        assert 1 <= len(first) <= 4
        rest = await take(backend.broker, queue, 10 - len(first))
        assert len(set(names([*first, *rest]))) == 10

    async def test_c_f1_an_empty_queue_gives_nothing_when_the_wait_is_over(self, backend: Backend, queue: str) -> None:
        with anyio.fail_after(SOON):
            assert list(await backend.broker.fetch([queue], 1, lease=LONG, wait=0)) == []
            assert list(await backend.broker.fetch([queue], 1, lease=LONG, wait=0.1)) == []

    async def test_c_f1_only_the_queues_asked_for_come(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue), a_job(f"{queue}-2", "b"))
        assert names(await take(backend.broker, f"{queue}-2")) == ["b"]
        assert await nothing(backend.broker, f"{queue}-2")

    async def test_c_f1_a_leased_job_is_not_fetched_again(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "exclusive")
        await add(backend.broker, a_job(queue))
        await take(backend.broker, queue)
        assert await nothing(backend.broker, queue)
        assert await nothing(other.broker, queue)

    async def test_c_f1_racing_fetches_share_no_job(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "exclusive")
        await add(backend.broker, *(a_job(queue, f"{n:03}") for n in range(200)))
        taken: list[Delivery] = []

        async def fetch_all(connection: Backend) -> None:
            while len(taken) < 400 and (got := await connection.broker.fetch([queue], 7, lease=LONG, wait=0)):
                taken.extend(got)

        async with anyio.create_task_group() as tasks:
            for n in range(8):
                tasks.start_soon(fetch_all, (backend, other)[n % 2])
        assert Counter(names(taken)) == Counter(f"{n:03}" for n in range(200))

    # C-F2: attempt, losses, fence

    async def test_c_f2_a_delivery_carries_the_job_as_it_was_enqueued(self, backend: Backend, queue: str) -> None:
        job = Job(
            id=f"{queue}-whole",
            task="mail.send",
            body=bytes(range(256)),
            queue=queue,
            priority=-3,
            unique="key: ä",
            unique_until="success",
            on_conflict="raise",
            group="group/1",
            group_limit=3,
            tenant="tenant",
            headers={"traceparent": "00-1", "empty": "", "日本": "語"},
        )
        await add(backend.broker, job)
        got = (await take_one(backend.broker, queue)).job
        fields = ("id", "task", "body", "queue", "priority", "unique", "unique_until", "group", "group_limit", "tenant")
        assert [getattr(got, field) for field in fields] == [getattr(job, field) for field in fields]
        assert dict(got.headers) == dict(job.headers)

    async def test_c_f2_due_and_expiry_are_moments_of_the_backend(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue, delay=SHORT, expires_in=LONG))
        delivery = await take_one(backend.broker, queue)
        assert delivery.due <= delivery.now
        assert delivery.expires_at == pytest.approx(delivery.due + LONG, abs=0.01)
        await backend.broker.settle([Nack(delivery.receipt, SHORT)])
        again = await take_one(backend.broker, queue)
        assert again.due >= delivery.now + SHORT - 0.01
        assert again.expires_at == pytest.approx(delivery.expires_at, abs=0.01)

    async def test_c_f2_the_attempt_is_the_counted_ends_plus_one(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "exact_attempts")
        await add(backend.broker, a_job(queue))
        attempts: list[tuple[int, int]] = []
        for counted in (True, False, True, False):
            delivery = await take_one(backend.broker, queue)
            attempts.append((delivery.attempt, delivery.losses))
            await backend.broker.settle([Nack(delivery.receipt, 0, counted=counted)])
        delivery = await take_one(backend.broker, queue)
        assert [*attempts, (delivery.attempt, delivery.losses)] == [(1, 0), (2, 0), (2, 0), (3, 0), (3, 0)]

    async def test_c_f2_a_loss_is_not_a_counted_end(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "exact_attempts")
        await add(backend.broker, a_job(queue))
        first = await take_one(backend.broker, queue, lease=SHORT)
        second = await take_one(backend.broker, queue, lease=SHORT)
        third = await take_one(backend.broker, queue)
        assert [(d.attempt, d.losses) for d in (first, second, third)] == [(1, 0), (1, 1), (1, 2)]

    async def test_c_f2_a_late_settlement_is_no_loss(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "exact_attempts")
        await add(backend.broker, a_job(queue))
        late = await take_one(backend.broker, queue, lease=SHORT)
        await pass_lease(backend.broker, queue)
        assert list(await backend.broker.settle([Nack(late.receipt, 0)])) == [True]
        delivery = await take_one(backend.broker, queue)
        assert (delivery.attempt, delivery.losses) == (2, 0)

    async def test_c_f2_the_fence_rises_with_every_delivery(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "exact_attempts")
        await add(backend.broker, a_job(queue))
        fences: list[int] = []
        for n in range(4):
            delivery = await take_one((backend, other)[n % 2].broker, queue, lease=SHORT if n == 1 else LONG)
            fences.append(delivery.fence)
            if n != 1:
                await backend.broker.settle([Nack(delivery.receipt, 0, counted=n == 0)])
        assert fences == sorted(set(fences))

    # C-F3: leases and receipts

    async def test_c_f3_a_lapsed_lease_comes_back_to_anyone_by_itself(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        await add(backend.broker, a_job(queue))
        first = await take_one(backend.broker, queue, lease=SHORT)
        with anyio.fail_after(SOON):
            again = await other.broker.fetch([queue], 1, lease=LONG, wait=2 * SOON)
        assert names(again) == ["a"]
        # Who does not count exactly may not know when a lease ended, either.
        lease = SHORT if backend.broker.traits.exact_attempts else 0.0
        assert again[0].due >= first.now + lease - 0.01

    async def test_c_f3_a_late_settlement_counts_until_another_fetch(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue))
        late = await take_one(backend.broker, queue, lease=SHORT)
        await pass_lease(backend.broker, queue)
        assert list(await backend.broker.settle([Ack(late.receipt)])) == [True]
        assert await nothing(backend.broker, queue)

    async def test_c_f3_another_fetch_voids_the_receipt(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "fenced")
        await add(backend.broker, a_job(queue))
        late = await take_one(backend.broker, queue, lease=SHORT)
        fresh = await take_one(other.broker, queue)
        assert late.receipt != fresh.receipt
        for settlement in (Ack(late.receipt), Nack(late.receipt, 0)):
            assert list(await backend.broker.settle([settlement])) == [False]
        assert list(await backend.broker.extend([late.receipt], LONG)) == [Lease.LOST]
        assert await nothing(backend.broker, queue)
        assert list(await other.broker.extend([fresh.receipt], LONG)) == [Lease.HELD]
        await ack(other.broker, fresh)

    async def test_c_f3_receipts_are_never_used_again(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "fenced")
        await add(backend.broker, a_job(queue))
        receipts: list[str] = []
        for _ in range(5):
            delivery = await take_one(backend.broker, queue)
            receipts.append(delivery.receipt)
            await backend.broker.settle([Nack(delivery.receipt, 0)])
        await ack(backend.broker, await take_one(backend.broker, queue))
        if backend.broker.traits.dedup_window == 0:
            await add(backend.broker, a_job(queue))
            receipts.append((await take_one(backend.broker, queue)).receipt)
        assert len(set(receipts)) == len(receipts)
        assert not any(await backend.broker.settle([Ack(receipt) for receipt in receipts[:5]]))

    # C-F5: a cancelled fetch

    async def test_c_f5_a_cancelled_fetch_withholds_no_job_past_one_lease(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        for turns in range(6):
            line = f"{queue}-{turns}"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_fetch_and_drop, backend, line)
                await anyio.lowlevel.checkpoint()
                await add(other.broker, *(a_job(line, str(n)) for n in range(3)))
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert sorted(names(await take(other.broker, line, 3))) == ["0", "1", "2"]

    # C-F6: waiting

    async def test_c_f6_a_waiting_fetch_returns_when_a_job_arrives(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        got: list[Delivery] = []

        async def wait() -> None:
            got.extend(await backend.broker.fetch([f"{queue}-x", queue], 1, lease=LONG, wait=2 * SOON))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await all_waiting(backend)
                await add(other.broker, a_job(queue))
        assert names(got) == ["a"]

    async def test_c_f6_a_waiting_fetch_returns_when_a_job_becomes_due(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue, delay=SHORT))
        with anyio.fail_after(SOON):
            assert names(await backend.broker.fetch([queue], 1, lease=LONG, wait=2 * SOON)) == ["a"]

    async def test_c_f6_a_waiting_fetch_returns_when_a_job_is_given_back(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        await add(backend.broker, a_job(queue))
        delivery = await take_one(backend.broker, queue)
        got: list[Delivery] = []

        async def wait() -> None:
            got.extend(await other.broker.fetch([queue], 1, lease=LONG, wait=2 * SOON))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await all_waiting(other)
                await backend.broker.settle([Nack(delivery.receipt, 0)])
        assert names(got) == ["a"]

    async def test_c_f6_a_waiting_fetch_returns_when_a_lease_is_cut_short(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        await add(backend.broker, a_job(queue))
        delivery = await take_one(backend.broker, queue)
        got: list[Delivery] = []

        async def wait() -> None:
            got.extend(await other.broker.fetch([queue], 1, lease=LONG, wait=2 * SOON))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await all_waiting(other)
                assert list(await backend.broker.extend([delivery.receipt], SHORT)) == [Lease.HELD]
        assert names(got) == ["a"]

    async def test_c_f6_every_waiting_fetch_has_its_turn(self, backend: Backend, other: Backend, queue: str) -> None:
        got: list[str] = []

        async def wait(connection: Backend) -> None:
            got.extend(names(await connection.broker.fetch([queue], 1, lease=LONG, wait=2 * SOON)))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                for n in range(6):
                    tasks.start_soon(wait, (backend, other)[n % 2])
                await all_waiting(backend)
                await all_waiting(other)
                await add(backend.broker, *(a_job(queue, str(n)) for n in range(6)))
        assert sorted(got) == ["0", "1", "2", "3", "4", "5"]


async def _fetch_and_drop(connection: Backend, queue: str) -> None:
    await connection.broker.fetch([queue], 2, lease=SHORT, wait=SOON)
