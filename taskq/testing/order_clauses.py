"""C-F4: in which order jobs come, those of groups (C-F7), too. Every test here needs the trait ``ordered``."""

# ruff: noqa: S101 (a contract is made of asserts)

from taskq.broker import Backend
from taskq.testing.deployment import LONG, SHORT, a_job, ack, add, names, needs, pass_lease, take


class OrderClauses:
    """Larger priority first, then oldest due first."""

    async def test_c_f4_larger_priority_comes_first(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "ordered")
        priorities = {"low": -5, "none": 0, "high": 9, "mid": 3}
        await add(backend.broker, *(a_job(queue, name, priority=priority) for name, priority in priorities.items()))
        first = await take(backend.broker, queue)
        await add(backend.broker, a_job(queue, "urgent", priority=10))
        assert names([*first, *await take(backend.broker, queue, 4)]) == ["high", "urgent", "mid", "none", "low"]

    async def test_c_f4_then_the_oldest_due_comes_first(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "ordered")
        second, third = a_job(queue, "second", delay=SHORT / 2), a_job(queue, "third", delay=SHORT)
        await add(backend.broker, third, second, a_job(queue, "first"))
        await pass_lease(backend.broker, queue)
        assert names(await take(backend.broker, queue, 3)) == ["first", "second", "third"]

    async def test_c_f4_jobs_enqueued_one_after_another_come_in_that_order(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "ordered")
        for n in range(9, -1, -1):
            await add(backend.broker, a_job(queue, str(n)))
        assert "".join(names(await take(backend.broker, queue, 10))) == "9876543210"

    async def test_c_f4_queues_come_in_the_order_given(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "ordered")
        one, two = f"{queue}-1", f"{queue}-2"
        await add(backend.broker, a_job(one, "a", priority=100), a_job(two, "b"), a_job(two, "c"))
        got = await backend.broker.fetch([two, one], 10, lease=LONG, wait=1)
        assert names(got) == ["b", "c", "a"]

    async def test_c_f7_a_fetch_is_greedy_in_order(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        needs(backend.broker, "ordered")
        await add(backend.broker, a_job(queue, "low", priority=-1))
        await add(backend.broker, *(a_job(queue, name, group="g") for name in "ab"))
        await add(backend.broker, a_job(queue, "urgent", group="g", group_limit=1, priority=5), a_job(queue, "plain"))
        got = await backend.broker.fetch([queue], 10, lease=LONG, wait=1)
        assert names(got) == ["urgent", "plain", "low"]
        await ack(backend.broker, got[0])
        assert names(await backend.broker.fetch([queue], 10, lease=LONG, wait=1)) == ["a"]

    async def test_c_f7_one_fetch_keeps_the_order_of_those_it_lets_go(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "groups")
        needs(backend.broker, "ordered")
        for name, priority in (("a", 5), ("c", 3)):
            await add(backend.broker, a_job(queue, name, group="g", group_limit=2, priority=priority))
        await add(backend.broker, a_job(queue, "b", priority=4), a_job(queue, "d"), a_job(queue, "e"))
        assert names(await backend.broker.fetch([queue], 5, lease=LONG, wait=1)) == ["a", "b", "c", "d", "e"]
