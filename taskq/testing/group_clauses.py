"""C-F7: what a group promises. Every test here needs the trait ``groups``."""

# ruff: noqa: S101 (a contract is made of asserts)

import anyio

from taskq.broker import Backend
from taskq.job import DeadLetter, Delivery, Job, Nack
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
    part,
    pass_lease,
    ref,
    take,
    take_one,
)


def _members(queue: str, members: str, limit: int) -> list[Job]:
    return [a_job(queue, name, group="g", group_limit=limit) for name in members]


class GroupClauses:
    """Places, order and what a full group does not do to others."""

    async def test_c_f7_at_most_the_limit_is_leased(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "abcde", 2))
        first, second = await take(backend.broker, queue, 2)
        assert await nothing(backend.broker, queue)
        assert await nothing(other.broker, queue)
        await ack(backend.broker, first)
        third = await take_one(other.broker, queue)
        assert await nothing(backend.broker, queue)
        await ack(backend.broker, second, third)
        await ack(backend.broker, *await take(backend.broker, queue, 2))
        assert await nothing(backend.broker, queue)

    async def test_c_f7_racing_fetches_keep_the_limit(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "abcdefghij", 3))
        taken: list[Delivery] = []

        async def fetch(connection: Backend) -> None:
            taken.extend(await connection.broker.fetch([queue], 2, lease=LONG, wait=0))

        async with anyio.create_task_group() as tasks:
            for n in range(10):
                tasks.start_soon(fetch, (backend, other)[n % 2])
        assert len(set(names(taken))) == len(taken) == 3

    async def test_c_f7_one_fetch_passes_over_a_full_group(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "abc", 2))
        await add(backend.broker, a_job(queue, "h", group="h"), a_job(queue, "i", group="h"))
        await add(backend.broker, a_job(queue, "plain"))
        assert sorted(names(await take(backend.broker, queue, 4))) == ["a", "b", "h", "plain"]
        assert await nothing(backend.broker, queue)

    async def test_c_f7_waiting_members_hold_nobody_else_up(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *(a_job(queue, f"{n:04}", group="g") for n in range(1000)))
        await add(backend.broker, a_job(queue, "plain"), a_job(queue, "h", group="h"))
        assert names(await take(backend.broker, queue))[0] == "0000"
        assert sorted(names(await backend.broker.fetch([queue], 5, lease=LONG, wait=1))) == ["h", "plain"]

    async def test_c_f7_groups_of_two_queues_are_two_groups(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "a", 1), *_members(f"{queue}-2", "b", 1))
        await take(backend.broker, queue)
        await take(backend.broker, f"{queue}-2")

    async def test_c_f7_with_one_place_jobs_run_in_order(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        for member in _members(queue, "abcde", 1):
            await add(backend.broker, member)
        order = ""
        for n in range(5):
            connection = (backend, other)[n % 2]
            got = await take(connection.broker, queue)
            order += names(got)[0]
            assert await nothing(connection.broker, queue)
            await ack(connection.broker, *got)
        assert order == "abcde"

    async def test_c_f7_with_one_place_a_job_that_runs_again_keeps_it(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "a", 1))
        await add(backend.broker, *_members(queue, "b", 1))
        first = await take_one(backend.broker, queue)
        await backend.broker.settle([Nack(first.receipt, SHORT)])
        await add(backend.broker, a_job(queue, "urgent", group="g", priority=9))
        assert await nothing(backend.broker, queue)
        again = await take(backend.broker, queue)
        assert names(again) == ["a"]
        await ack(backend.broker, *again)
        next_one = names(await take(backend.broker, queue))
        assert next_one == ["urgent"] or (next_one == ["b"] and not backend.broker.traits.ordered)

    async def test_c_f7_with_one_place_a_lost_job_keeps_it(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "a", 1))
        await take(backend.broker, queue, lease=SHORT)
        await add(backend.broker, *_members(queue, "b", 1), a_job(queue, "urgent", group="g", priority=9))
        await pass_lease(backend.broker, queue)
        assert names(await take(backend.broker, queue)) == ["a"]
        assert await nothing(backend.broker, queue)

    async def test_c_f7_with_one_place_a_later_job_does_not_hold_it(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, a_job(queue, "later", group="g", delay=LONG), *_members(queue, "a", 1))
        assert names(await take(backend.broker, queue)) == ["a"]

    async def test_c_f7_with_more_places_a_nack_frees_one(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "abc", 2))
        first, _ = await take(backend.broker, queue, 2)
        await backend.broker.settle([Nack(first.receipt, LONG)])
        assert len(await take(backend.broker, queue)) == 1
        assert await nothing(backend.broker, queue)

    async def test_c_f7_with_more_places_a_loss_frees_one(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "abc", 2))
        await take(backend.broker, queue)
        await take(backend.broker, queue, lease=SHORT)
        with anyio.fail_after(SOON):
            assert len(await backend.broker.fetch([queue], 10, lease=LONG, wait=2 * SOON)) == 1
        assert await nothing(backend.broker, queue)

    async def test_c_f7_a_dead_letter_frees_its_place(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "a", 1))
        await add(backend.broker, *_members(queue, "b", 1))
        first = await take_one(backend.broker, queue)
        await backend.broker.settle([DeadLetter(first.receipt, b"no")])
        assert names(await take(backend.broker, queue)) == ["b"]

    async def test_c_f7_a_freed_place_wakes_a_waiting_fetch(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        await add(backend.broker, *_members(queue, "a", 1))
        await add(backend.broker, *_members(queue, "b", 1))
        first = await take_one(backend.broker, queue)
        got: list[Delivery] = []

        async def wait() -> None:
            got.extend(await other.broker.fetch([queue], 1, lease=LONG, wait=2 * SOON))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await all_waiting(other)
                await ack(backend.broker, first)
        assert names(got) == ["b"]

    async def test_c_f7_a_cancelled_member_needs_no_place(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        admin = part(backend.admin, "admin")
        for member in _members(queue, "abc", 1):
            await add(backend.broker, member)
        running = await take_one(backend.broker, queue)
        assert list(await admin.cancel([ref(a_job(queue, "b"))])) == [True]
        cancelled = await take_one(backend.broker, queue)
        assert (names([cancelled]), cancelled.cancelled) == (["b"], True)
        await ack(backend.broker, cancelled)
        assert await nothing(backend.broker, queue)
        await ack(backend.broker, running)
        assert names(await take(backend.broker, queue)) == ["c"]
