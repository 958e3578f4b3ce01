"""What transactions promise: the broker's own calls take part in the caller's. Every test here needs that part."""

# ruff: noqa: S101 (a contract is made of asserts)

import anyio
import pytest

from taskq.broker import Backend
from taskq.errors import BrokerError, BrokerRejected, ConfigError
from taskq.job import Ack
from taskq.testing.deployment import (
    LONG,
    SHORT,
    SOON,
    Deployment,
    a_job,
    add,
    names,
    nothing,
    part,
    ref,
    take,
    take_one,
)


class TransactionClauses:
    """Enqueue and settle with what else is written, all or nothing."""

    async def test_transactions_carry_out_all_at_the_commit(self, backend: Backend, other: Backend, queue: str) -> None:
        transactions = part(backend.transactions, "transactions")
        await add(backend.broker, a_job(queue, "acked"))
        delivery = await take_one(backend.broker, queue)
        async with transactions.begin() as connection:
            joined = transactions.join(connection)
            answers = await joined.enqueue([a_job(queue, "b"), a_job(queue, "b"), a_job(queue, "acked")])
            assert [answer.added for answer in answers] == [True, False, False]
            assert list(await joined.settle([Ack(delivery.receipt, b"done", LONG), Ack(delivery.receipt)])) == [
                True,
                False,
            ]
        assert names(await take(other.broker, queue)) == ["b"]
        assert await nothing(other.broker, queue)
        assert list(await backend.broker.settle([Ack(delivery.receipt)])) == [False]
        if other.results is not None:
            assert await other.results.outcome(ref(a_job(queue, "acked")), wait=0) == b"done"

    async def test_transactions_that_raise_leave_no_trace(self, backend: Backend, other: Backend, queue: str) -> None:
        transactions = part(backend.transactions, "transactions")
        await add(backend.broker, a_job(queue, "held"))
        delivery = await take_one(backend.broker, queue)
        with pytest.raises(_RolledBack):  # noqa: PT012 the block is the transaction
            async with transactions.begin() as connection:
                joined = transactions.join(connection)
                await joined.enqueue([a_job(queue, "never", unique="k")])
                await joined.settle([Ack(delivery.receipt, b"never", LONG)])
                raise _RolledBack
        assert await nothing(other.broker, queue)
        await add(backend.broker, a_job(queue, "after", unique="k"))
        assert list(await backend.broker.settle([Ack(delivery.receipt)])) == [True]

    async def test_transactions_show_nothing_before_the_commit(
        self, backend: Backend, deployment: Deployment, queue: str
    ) -> None:
        transactions = part(backend.transactions, "transactions")
        got: list[str] = []

        async def wait() -> None:
            async with deployment.open() as third:
                got.extend(names(await take(third.broker, queue)))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks, transactions.begin() as connection:
                await transactions.join(connection).enqueue([a_job(queue)])
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                assert got == []
        assert got == ["a"]

    async def test_transactions_keep_unique_keys(self, backend: Backend, queue: str) -> None:
        transactions = part(backend.transactions, "transactions")
        await add(backend.broker, a_job(queue, "a", unique="k"))
        async with transactions.begin() as connection:
            joined = transactions.join(connection)
            jobs = [a_job(queue, "b", unique="k"), a_job(queue, "c", unique="l"), a_job(queue, "d", unique="l")]
            answers = await joined.enqueue(jobs)
        expected = [(a_job(queue, "a").id, False), (jobs[1].id, True), (jobs[1].id, False)]
        assert [(answer.id, answer.added) for answer in answers] == expected
        assert sorted(names(await take(backend.broker, queue, 2))) == ["a", "c"]

    async def test_transactions_with_a_void_receipt_say_so(self, backend: Backend, queue: str) -> None:
        transactions = part(backend.transactions, "transactions")
        await add(backend.broker, a_job(queue))
        late = await take_one(backend.broker, queue, lease=SHORT)
        await take_one(backend.broker, queue)
        async with transactions.begin() as connection:
            assert list(await transactions.join(connection).settle([Ack(late.receipt)])) == [False]

    async def test_transactions_join_only_their_own_kind(self, backend: Backend, queue: str) -> None:
        transactions = part(backend.transactions, "transactions")
        with pytest.raises(ConfigError):
            transactions.join(object())
        async with transactions.begin() as connection:
            joined = transactions.join(connection)
            assert joined.traits == backend.broker.traits
            with pytest.raises(BrokerRejected):
                await joined.fetch([queue], 1, lease=LONG, wait=0)
            with pytest.raises(BrokerRejected):
                await joined.extend(["unknown-1"], LONG)

    async def test_transactions_that_are_over_take_no_more(self, backend: Backend, queue: str) -> None:
        transactions = part(backend.transactions, "transactions")
        async with transactions.begin() as connection:
            joined = transactions.join(connection)
        with pytest.raises(BrokerError):
            await joined.enqueue([a_job(queue)])
        assert await nothing(backend.broker, queue)


class _RolledBack(Exception):
    """What a handler raises to undo its transaction."""
