"""C-S1 to C-S5 and C-X1: what settling and extending promise."""

# ruff: noqa: S101 (a contract is made of asserts)

from collections.abc import Sequence

import anyio
from anyio import to_thread

from taskq.broker import Backend
from taskq.job import Ack, DeadLetter, Lease, Nack, Settlement
from taskq.testing.deployment import (
    LONG,
    SHORT,
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


class SettleClauses:
    """The ends of leases."""

    async def test_c_s1_there_is_one_answer_per_settlement_in_order(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, *(a_job(queue, name) for name in "abcd"))
        got = {d.job.id: d.receipt for d in await take(backend.broker, queue, 4)}
        a, b, c, d = (got[a_job(queue, name).id] for name in "abcd")
        void = a[:-1] + ("0" if a[-1] != "0" else "1") + "-void"
        answers = await backend.broker.settle(
            [DeadLetter(void, b""), Ack(a), Ack(void), Nack(b, LONG), Nack(void, 0), DeadLetter(c, b"no"), Ack(d)]
        )
        assert list(answers) == [False, True, False, True, False, True, True]

    async def test_c_s1_no_settlements_have_no_answers(self, backend: Backend) -> None:
        assert list(await backend.broker.settle([])) == []

    async def test_c_s1_a_void_receipt_changes_nothing(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "fenced")
        await add(backend.broker, a_job(queue))
        late = await take_one(backend.broker, queue, lease=SHORT)
        fresh = await take_one(other.broker, queue)
        for settlement in (Ack(late.receipt), DeadLetter(late.receipt, b"no"), Nack(late.receipt, 0, error=b"no")):
            assert list(await backend.broker.settle([settlement])) == [False]
        assert await nothing(backend.broker, queue)
        await other.broker.settle([Nack(fresh.receipt, 0, counted=False)])
        again = await take_one(backend.broker, queue)
        assert (again.attempt, again.error) == (1, None)

    async def test_c_s2_an_ack_removes_the_job(self, backend: Backend, other: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue))
        await ack(other.broker, await take_one(backend.broker, queue, lease=SHORT))
        await pass_lease(backend.broker, queue)
        assert await nothing(backend.broker, queue)
        assert await nothing(other.broker, queue)

    async def test_c_s3_a_nack_makes_the_job_due_after_its_time(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue, "soon"), a_job(queue, "late"))
        got = {names([d])[0]: d for d in await take(backend.broker, queue, 2)}
        await backend.broker.settle([Nack(got["soon"].receipt, SHORT), Nack(got["late"].receipt, LONG)])
        again = await take_one(backend.broker, queue)
        assert names([again]) == ["soon"]
        assert again.now >= got["soon"].now + SHORT - 0.01
        assert await nothing(backend.broker, queue)

    async def test_c_s3_a_nack_may_make_it_due_at_once(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue))
        await backend.broker.settle([Nack((await take_one(backend.broker, queue)).receipt, 0)])
        assert names(await backend.broker.fetch([queue], 1, lease=LONG, wait=1)) == ["a"]

    async def test_c_s3_an_uncounted_nack_leaves_the_attempt(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "exact_attempts")
        await add(backend.broker, a_job(queue))
        await backend.broker.settle([Nack((await take_one(backend.broker, queue)).receipt, 0, counted=False)])
        delivery = await take_one(backend.broker, queue)
        assert (delivery.attempt, delivery.losses) == (1, 0)

    async def test_c_s3_a_counted_nack_counts(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "exact_attempts")
        await add(backend.broker, a_job(queue))
        await backend.broker.settle([Nack((await take_one(backend.broker, queue)).receipt, 0)])
        delivery = await take_one(backend.broker, queue)
        assert (delivery.attempt, delivery.losses) == (2, 0)

    async def test_c_s3_an_error_is_kept_until_the_next_one(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue))
        seen: list[bytes | None] = []
        for error in (b"one \x00\xff", None, b"two", None):
            delivery = await take_one(backend.broker, queue)
            seen.append(delivery.error)
            await backend.broker.settle([Nack(delivery.receipt, 0, error=error)])
        seen.append((await take_one(backend.broker, queue)).error)
        assert seen == [None, b"one \x00\xff", b"one \x00\xff", b"two", b"two"]

    async def test_c_s4_a_dead_letter_leaves_the_queue(self, backend: Backend, other: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue))
        delivery = await take_one(backend.broker, queue, lease=SHORT)
        assert list(await other.broker.settle([DeadLetter(delivery.receipt, b"no")])) == [True]
        await pass_lease(backend.broker, queue)
        assert await nothing(backend.broker, queue)

    async def test_c_s5_a_receipt_settles_once(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, *(a_job(queue, name) for name in "abc"))
        a, b, c = await take(backend.broker, queue, 3)
        first: list[Settlement] = [Ack(a.receipt), Nack(b.receipt, LONG), DeadLetter(c.receipt, b"no")]
        assert list(await backend.broker.settle(first)) == [True, True, True]
        for receipt in (a.receipt, b.receipt, c.receipt):
            assert list(await backend.broker.settle([Ack(receipt), Nack(receipt, 0)])) == [False, False]

    async def test_c_s5_a_receipt_settles_once_within_a_call(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue))
        receipt = (await take_one(backend.broker, queue)).receipt
        assert list(await backend.broker.settle([Nack(receipt, LONG), Ack(receipt)])) == [True, False]
        assert await nothing(backend.broker, queue)
        if backend.broker.traits.idempotent:
            assert not (await backend.broker.enqueue([a_job(queue)]))[0].added

    async def test_c_s5_of_racing_settlements_one_counts(self, backend: Backend, other: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue))
        receipt = (await take_one(backend.broker, queue)).receipt
        answers: list[bool] = []

        async def settle(connection: Backend) -> None:
            answers.extend(await connection.broker.settle([Ack(receipt)]))

        async with anyio.create_task_group() as tasks:
            for n in range(10):
                tasks.start_soon(settle, (backend, other)[n % 2])
        assert sorted(answers) == [False] * 9 + [True]

    # C-X1: extending

    async def test_c_x1_extending_counts_from_now(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue))
        delivery = await take_one(backend.broker, queue, lease=LONG)
        assert list(await backend.broker.extend([delivery.receipt], SHORT)) == [Lease.HELD]
        again = await take_one(backend.broker, queue)
        assert again.due < delivery.now + LONG

    async def test_c_x1_an_extended_lease_outlives_its_first_end(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        needs(backend.broker, "exclusive")
        await add(backend.broker, a_job(queue))
        delivery = await take_one(backend.broker, queue, lease=2 * SHORT)
        assert list(await backend.broker.extend([delivery.receipt], LONG)) == [Lease.HELD]
        await pass_lease(backend.broker, queue)
        await pass_lease(backend.broker, queue)
        assert await nothing(other.broker, queue)
        await ack(backend.broker, delivery)

    async def test_c_x1_there_is_one_answer_per_receipt_in_order(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, *(a_job(queue, name) for name in "abc"))
        a, b, c = await take(backend.broker, queue, 3)
        await ack(backend.broker, b)
        answers = await backend.broker.extend([b.receipt, a.receipt, "unknown-1", c.receipt, a.receipt], LONG)
        assert list(answers) == [Lease.LOST, Lease.HELD, Lease.LOST, Lease.HELD, Lease.HELD]
        assert list(await backend.broker.extend([], LONG)) == []

    async def test_c_x1_what_extend_answers_after_a_lapse_is_true(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        await add(backend.broker, a_job(queue))
        delivery = await take_one(backend.broker, queue, lease=SHORT)
        await pass_lease(backend.broker, queue)
        (answer,) = await backend.broker.extend([delivery.receipt], LONG)
        assert await nothing(other.broker, queue) == (answer is Lease.HELD)

    async def test_c_x1_another_threads_loop_can_extend(self, backend: Backend, other: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue, "a"), a_job(queue, "b"))
        a, b = await take(backend.broker, queue, 2, lease=2 * SHORT)
        await ack(backend.broker, b)

        async def extend() -> Sequence[Lease]:
            async with backend.extender() as extender:
                return await extender.extend([a.receipt, b.receipt], LONG)

        answers = await to_thread.run_sync(anyio.run, extend)
        assert list(answers) == [Lease.HELD, Lease.LOST]
        await pass_lease(backend.broker, queue)
        await pass_lease(backend.broker, queue)
        assert await nothing(other.broker, queue)

    async def test_c_x1_another_threads_loop_can_cut_a_lease_short(self, backend: Backend, queue: str) -> None:
        await add(backend.broker, a_job(queue))
        delivery = await take_one(backend.broker, queue)

        async def extend() -> Sequence[Lease]:
            async with backend.extender() as extender:
                return await extender.extend([delivery.receipt], SHORT)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, backend.broker, queue)
            await all_waiting(backend)
            assert list(await to_thread.run_sync(anyio.run, extend)) == [Lease.HELD]
