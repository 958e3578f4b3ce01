"""C-F8: what tenants are promised. Every test here needs the trait ``fair``."""

# ruff: noqa: S101 (a contract is made of asserts)

import anyio

from taskq.broker import Backend
from taskq.job import Job, Lease, Nack
from taskq.testing.deployment import (
    LONG,
    SHORT,
    SOON,
    a_job,
    ack,
    add,
    names,
    needs,
    nothing,
    part,
    pass_lease,
    ref,
    take,
)


def _jobs(queue: str, tenant: str, count: int, **options: int) -> list[Job]:
    return [a_job(queue, f"{tenant}{n}", tenant=tenant, **options) for n in range(count)]


class TenantClauses:
    """Turns, and what much of one tenant does not do to others."""

    async def test_c_f8_tenants_take_turns(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        await add(backend.broker, *_jobs(queue, "a", 6), *_jobs(queue, "b", 3), *_jobs(queue, "c", 1))
        order: list[str] = []
        for n in range(10):
            order += names(await take((backend, other)[n % 2].broker, queue))
        assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3", "a4", "a5"]

    async def test_c_f8_tenants_take_turns_within_a_fetch(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        await add(backend.broker, *_jobs(queue, "a", 6), *_jobs(queue, "b", 3), *_jobs(queue, "c", 1))
        got = await take(backend.broker, queue, 4) + await take(backend.broker, queue, 6)
        assert names(got) == ["a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3", "a4", "a5"]

    async def test_c_f8_a_thousand_jobs_of_one_tenant_are_one_before_anothers(
        self, backend: Backend, queue: str
    ) -> None:
        needs(backend.broker, "fair")
        await add(backend.broker, *_jobs(queue, "a", 1000))
        await take(backend.broker, queue, 100)
        await add(backend.broker, *_jobs(queue, "b", 2))
        await add(backend.broker, a_job(queue, "plain"))
        assert names(await take(backend.broker, queue, 5)) == ["a100", "b0", "plain", "a101", "b1"]

    async def test_c_f8_a_turn_goes_to_the_larger_priority(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        await add(backend.broker, *_jobs(queue, "a", 2), *_jobs(queue, "b", 2))
        await add(backend.broker, a_job(queue, "low", tenant="c", priority=-1))
        await add(backend.broker, *(a_job(queue, f"urgent{n}", tenant="a", priority=5) for n in range(2)))
        assert names(await take(backend.broker, queue, 7)) == ["urgent0", "urgent1", "b0", "a0", "b1", "a1", "low"]

    async def test_c_f8_a_job_of_a_group_waits_for_its_group_alone(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        needs(backend.broker, "groups")
        grouped = [a_job(queue, f"g{n}", tenant="a", group="g", group_limit=2) for n in range(3)]
        await add(backend.broker, *grouped, *_jobs(queue, "a", 2))
        got = await take(backend.broker, queue, 4)
        assert names(got) == ["g0", "g1", "a0", "a1"]
        assert {(delivery.job.tenant, delivery.job.group) for delivery in got} == {("a", "g"), ("a", None)}
        assert await nothing(backend.broker, queue)

    async def test_c_f8_a_job_that_runs_again_waits_for_its_tenants_turn(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        await add(backend.broker, *_jobs(queue, "a", 2))
        await add(backend.broker, *_jobs(queue, "b", 2))
        (first,) = await take(backend.broker, queue)
        await backend.broker.settle([Nack(first.receipt, 0.0)])
        again = await take(backend.broker, queue, 4)
        assert names(again) == ["b0", "a1", "b1", "a0"]
        assert (again[3].attempt, again[3].losses, again[3].job.tenant) == (2, 0, "a")
        await ack(backend.broker, *again)
        assert await nothing(backend.broker, queue)

    async def test_c_f8_a_lost_job_is_held_again_or_goes_to_another(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        await add(backend.broker, *_jobs(queue, "a", 3))
        kept, lost = await take(backend.broker, queue, 2, lease=SHORT)
        await pass_lease(backend.broker, queue)
        assert list(await backend.broker.extend([kept.receipt], LONG)) == [Lease.HELD]
        got = await take(backend.broker, queue, 2)
        assert sorted(names(got)) == ["a1", "a2"]
        assert [delivery.losses for delivery in got if delivery.job.id == lost.job.id] == [1]
        assert list(await backend.broker.extend([lost.receipt], LONG)) == [Lease.LOST]
        await ack(backend.broker, kept, *got)
        assert await nothing(backend.broker, queue)

    async def test_c_f8_a_later_job_stands_in_line_when_it_is_due(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        await add(backend.broker, *_jobs(queue, "a", 3), a_job(queue, "soon", tenant="b", delay=SHORT))
        assert names(await take(backend.broker, queue)) == ["a0"]
        await pass_lease(backend.broker, queue)
        assert names(await take(backend.broker, queue, 3)) == ["a1", "soon", "a2"]

    async def test_c_f8_a_cancelled_job_waits_for_no_turn(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        admin = part(backend.admin, "admin")
        await add(backend.broker, *_jobs(queue, "a", 5))
        assert list(await admin.cancel([ref(a_job(queue, "a0")), ref(a_job(queue, "a3"))])) == [True, True]
        got = await take(backend.broker, queue, 5)
        assert sorted(names([one for one in got if one.cancelled])) == ["a0", "a3"]
        assert names([one for one in got if not one.cancelled]) == ["a1", "a2", "a4"]
        await ack(backend.broker, *got)

    async def test_c_f8_a_turn_does_not_change_when_a_job_was_due(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        await add(backend.broker, *_jobs(queue, "a", 3))
        first, second, third = await take(backend.broker, queue, 3)
        assert first.due == second.due == third.due
        await ack(backend.broker, first, second, third)

    async def test_c_f8_the_next_turn_wakes_a_waiting_fetch(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "fair")
        got: list[str] = []

        async def wait() -> None:
            got.extend(names(await other.broker.fetch([queue], 1, lease=LONG, wait=2 * SOON)))

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(wait)
                await add(backend.broker, *_jobs(queue, "a", 3))
        assert sorted(got) == ["a0", "a1", "a2"]
