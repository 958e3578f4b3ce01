"""What the optional parts promise: results (C-S2), admin (C-S4, C-X2) and hints."""

# ruff: noqa: S101 (a contract is made of asserts)

import anyio
import pytest

from taskq.broker import Backend, Hint, QueueStats
from taskq.job import Ack, DeadLetter, JobRef, Lease, Nack
from taskq.testing.deployment import (
    LONG,
    SHORT,
    SOON,
    a_job,
    ack,
    add,
    all_waiting,
    names,
    nothing,
    part,
    pass_lease,
    ref,
    take,
    take_one,
    wait_until,
)


class CapabilityClauses:
    """Each test is skipped where the backend lacks the part."""

    # Results

    async def test_c_s2_an_outcome_can_be_read_by_anyone(self, backend: Backend, other: Backend, queue: str) -> None:
        results = part(other.results, "results")
        await add(backend.broker, a_job(queue))
        assert await results.outcome(ref(a_job(queue)), wait=0) is None
        delivery = await take_one(backend.broker, queue)
        assert await results.outcome(ref(a_job(queue)), wait=0) is None
        await backend.broker.settle([Ack(delivery.receipt, b"\x00done\xff", LONG)])
        for _ in range(2):
            assert await results.outcome(ref(a_job(queue)), wait=0) == b"\x00done\xff"

    async def test_c_s2_an_outcome_is_kept_as_long_as_said(self, backend: Backend, queue: str) -> None:
        results = part(backend.results, "results")
        await add(backend.broker, a_job(queue, "none"), a_job(queue, "short"), a_job(queue, "long"))
        keep = {"none": 0.0, "short": SHORT, "long": LONG}
        await backend.broker.settle(
            [Ack(d.receipt, b"done", keep[names([d])[0]]) for d in await take(backend.broker, queue, 3)]
        )
        await pass_lease(backend.broker, queue)
        outcomes = [await results.outcome(ref(a_job(queue, name)), wait=0) for name in keep]
        assert outcomes == [None, None, b"done"]

    async def test_c_s2_an_id_used_again_has_its_own_outcome(self, backend: Backend, queue: str) -> None:
        results = part(backend.results, "results")
        if backend.broker.traits.dedup_window > 0:
            pytest.skip("this broker does not take an ended id again soon enough")
        await add(backend.broker, a_job(queue))
        await backend.broker.settle([Ack((await take_one(backend.broker, queue)).receipt, b"first", SHORT)])
        await add(backend.broker, a_job(queue))
        await pass_lease(backend.broker, queue)
        assert await results.outcome(ref(a_job(queue)), wait=0) is None
        await backend.broker.settle([Ack((await take_one(backend.broker, queue)).receipt, b"second", LONG)])
        await pass_lease(backend.broker, queue)
        assert await results.outcome(ref(a_job(queue)), wait=0) == b"second"

    async def test_c_s2_waiting_for_an_outcome_ends_with_the_job(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        results = part(other.results, "results")
        await add(backend.broker, a_job(queue, "acked"), a_job(queue, "dead"))
        got: dict[str, bytes | None] = {}

        async def wait(name: str) -> None:
            got[name] = await results.outcome(ref(a_job(queue, name)), wait=2 * SOON)

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                for name in ("acked", "acked", "dead"):
                    tasks.start_soon(wait, name)
                await all_waiting(other)
                for delivery in await take(backend.broker, queue, 2):
                    dead = names([delivery]) == ["dead"]
                    receipt = delivery.receipt
                    await backend.broker.settle([DeadLetter(receipt, b"no") if dead else Ack(receipt, b"yes", LONG)])
        assert got == {"acked": b"yes", "dead": b"no"}

    async def test_c_s2_there_is_no_outcome_of_an_unknown_job(self, backend: Backend, queue: str) -> None:
        results = part(backend.results, "results")
        with anyio.fail_after(SOON):
            assert await results.outcome(JobRef(queue, "unknown"), wait=0.05) is None

    # Admin: dead letters

    async def test_c_s4_a_dead_letter_is_kept_with_its_outcome(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        admin = part(other.admin, "admin")
        await add(backend.broker, a_job(queue, body=b"whole", headers={"h": "1"}))
        await backend.broker.settle([Nack((await take_one(backend.broker, queue)).receipt, 0, error=b"first")])
        delivery = await take_one(backend.broker, queue)
        await backend.broker.settle([DeadLetter(delivery.receipt, b"out of attempts")])
        record = await admin.lookup(ref(a_job(queue)))
        assert record is not None
        assert (record.state, record.outcome, record.error) == ("dead", b"out of attempts", b"first")
        assert (record.job.body, dict(record.job.headers), record.attempt) == (b"whole", {"h": "1"}, 2)
        assert record.due >= delivery.now - 0.01
        if backend.results is not None:
            assert await backend.results.outcome(ref(a_job(queue)), wait=0) == b"out of attempts"

    async def test_c_s4_a_dead_letter_lapses_when_said(self, backend: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue))
        receipt = (await take_one(backend.broker, queue)).receipt
        await backend.broker.settle([DeadLetter(receipt, b"no", keep=SHORT)])

        async def lapsed() -> bool:
            return await admin.lookup(ref(a_job(queue))) is None

        await wait_until(lapsed)
        assert list(await admin.revive([ref(a_job(queue))])) == ["unknown"]
        if backend.results is not None:
            assert await backend.results.outcome(ref(a_job(queue)), wait=0) is None

    async def test_c_s4_a_dead_letter_that_lapsed_is_counted(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        admin, looking = part(backend.admin, "admin"), part(other.admin, "admin")

        async def bury(name: str, keep: float) -> None:
            await add(backend.broker, a_job(queue, name))
            await backend.broker.settle([DeadLetter((await take_one(backend.broker, queue)).receipt, b"no", keep=keep)])

        async def counts() -> tuple[int, int]:
            (stats,) = await looking.stats([queue])
            return stats.dead, stats.lapsed

        async def said(dead: int, lapsed: int) -> bool:
            return await counts() == (dead, lapsed)

        for name, keep in (("a", SHORT), ("b", SHORT), ("kept", LONG), ("purged", LONG), ("revived", LONG)):
            await bury(name, keep)
        await admin.purge([ref(a_job(queue, "purged"))])
        await admin.revive([ref(a_job(queue, "revived"))])
        await ack(backend.broker, await take_one(backend.broker, queue))
        await wait_until(lambda: said(1, 2))
        # Whose id is free again.
        await bury("a", SHORT)
        await wait_until(lambda: said(1, 3))

    async def test_c_s4_a_revived_job_starts_anew(self, backend: Backend, other: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue))
        await take(backend.broker, queue, lease=SHORT)
        await backend.broker.settle([Nack((await take_one(backend.broker, queue)).receipt, 0)])
        dead = await take_one(backend.broker, queue)
        assert (dead.attempt, dead.losses) == (2, 1)
        await backend.broker.settle([DeadLetter(dead.receipt, b"no")])
        assert list(await other.admin.revive([ref(a_job(queue))]) if other.admin else []) == ["revived"]
        delivery = await take_one(backend.broker, queue)
        assert (delivery.attempt, delivery.losses, delivery.cancelled) == (1, 0, False)
        assert delivery.fence > dead.fence
        assert delivery.due >= dead.now
        assert list(await admin.revive([ref(a_job(queue))])) == ["unknown"]
        await ack(backend.broker, delivery)
        assert await admin.lookup(ref(a_job(queue))) is None

    async def test_c_s4_reviving_wakes_a_waiting_fetch(self, backend: Backend, other: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue))
        await backend.broker.settle([DeadLetter((await take_one(backend.broker, queue)).receipt, b"no")])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, other.broker, queue)
            await all_waiting(other)
            await admin.revive([ref(a_job(queue))])

    async def test_c_s4_reviving_answers_a_conflict_when_the_key_is_held(self, backend: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue, "a", unique="k"), a_job(queue, "plain"))
        await backend.broker.settle([DeadLetter(d.receipt, b"no") for d in await take(backend.broker, queue, 2)])
        await add(backend.broker, a_job(queue, "b", unique="k"))
        refs = [ref(a_job(queue, name)) for name in ("a", "plain", "unknown")]
        assert list(await admin.revive(refs)) == ["conflict", "revived", "unknown"]
        record = await admin.lookup(refs[0])
        assert record is not None
        assert record.state == "dead"
        await ack(backend.broker, *await take(backend.broker, queue, 2))
        assert list(await admin.revive(refs[:1])) == ["revived"]
        assert not (await backend.broker.enqueue([a_job(queue, "c", unique="k")]))[0].added

    async def test_c_s4_purging_removes_dead_letters_alone(self, backend: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue, "dead"))
        await backend.broker.settle([DeadLetter((await take_one(backend.broker, queue)).receipt, b"no")])
        await add(backend.broker, a_job(queue, "live"))
        refs = [ref(a_job(queue, name)) for name in ("live", "dead", "unknown")]
        assert list(await admin.purge(refs)) == [False, True, False]
        assert await admin.lookup(refs[1]) is None
        assert names(await take(backend.broker, queue)) == ["live"]

    # Admin: cancel

    async def test_c_x2_a_cancelled_waiting_job_is_due_and_says_so(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        admin = part(other.admin, "admin")
        await add(backend.broker, a_job(queue, "later", delay=LONG), a_job(queue, "ready"), a_job(queue, "spared"))
        refs = [ref(a_job(queue, name)) for name in ("later", "ready", "unknown")]
        assert list(await admin.cancel(refs)) == [True, True, False]
        got = {names([d])[0]: d.cancelled for d in await take(backend.broker, queue, 3)}
        assert got == {"later": True, "ready": True, "spared": False}

    async def test_c_x2_a_cancelled_job_is_settled_like_any_other(self, backend: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue, delay=LONG))
        await admin.cancel([ref(a_job(queue))])
        first = await take_one(backend.broker, queue)
        await backend.broker.settle([Nack(first.receipt, SHORT)])
        assert await nothing(backend.broker, queue)
        again = await take_one(backend.broker, queue)
        assert (again.cancelled, again.attempt) == (True, 2)
        await ack(backend.broker, again)
        assert list(await admin.cancel([ref(a_job(queue))])) == [False]

    async def test_c_x2_cancelling_wakes_a_waiting_fetch(self, backend: Backend, other: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue, delay=LONG))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, other.broker, queue)
            await all_waiting(other)
            await admin.cancel([ref(a_job(queue))])

    async def test_c_x2_a_dead_letter_cannot_be_cancelled(self, backend: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue))
        await backend.broker.settle([DeadLetter((await take_one(backend.broker, queue)).receipt, b"no")])
        assert list(await admin.cancel([ref(a_job(queue))])) == [False]

    async def test_c_x1_extend_tells_that_the_job_is_cancelled(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        admin = part(other.admin, "admin")
        await add(backend.broker, a_job(queue, "a"), a_job(queue, "b"))
        got = {names([d])[0]: d for d in await take(backend.broker, queue, 2, lease=2 * SHORT)}
        assert list(await admin.cancel([ref(a_job(queue, "a"))])) == [True]
        receipts = [got["a"].receipt, got["b"].receipt]
        assert list(await backend.broker.extend(receipts, LONG)) == [Lease.CANCELLED, Lease.HELD]
        await pass_lease(backend.broker, queue)
        await pass_lease(backend.broker, queue)
        assert await nothing(other.broker, queue)
        await backend.broker.settle([Nack(got["a"].receipt, 0)])
        assert (await take_one(other.broker, queue)).cancelled

    # Admin: looking

    async def test_admin_counts_the_jobs_of_each_state(self, backend: Backend, other: Backend, queue: str) -> None:
        admin = part(other.admin, "admin")
        await add(backend.broker, a_job(queue, "dead"), a_job(queue, "leased"))
        dead, _ = await take(backend.broker, queue, 2)
        await backend.broker.settle([DeadLetter(dead.receipt, b"no")])
        await add(backend.broker, *(a_job(queue, f"r{n}") for n in range(3)), a_job(queue, "later", delay=LONG))
        (stats,) = await admin.stats([queue])
        counts = (stats.queue, stats.later, stats.ready, stats.leased, stats.dead)
        assert counts == (queue, 1, 3, 1, 1)
        assert 0 <= stats.oldest < SOON
        assert stats in [_at(found, stats.oldest) for found in await admin.stats()]
        (empty,) = await admin.stats([f"{queue}-empty"])
        assert empty == QueueStats(queue=f"{queue}-empty", later=0, ready=0, leased=0, dead=0, oldest=0.0)

    async def test_admin_counts_a_lapsed_lease_as_ready(self, backend: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue))
        await take(backend.broker, queue, lease=SHORT)

        async def ready() -> bool:
            (stats,) = await admin.stats([queue])
            return (stats.ready, stats.leased) == (1, 0)

        await wait_until(ready)

    async def test_admin_looks_a_job_up_in_every_state(self, backend: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue, delay=SHORT, expires_in=LONG))
        later = await admin.lookup(ref(a_job(queue)))
        delivery = await take_one(backend.broker, queue)
        leased = await admin.lookup(ref(a_job(queue)))
        found = await admin.find(a_job(queue).id)
        await backend.broker.settle([Nack(delivery.receipt, 0, error=b"no")])
        ready = await admin.lookup(ref(a_job(queue)))
        assert later is not None
        assert leased is not None
        assert found is not None
        assert ready is not None
        assert [record.state for record in (later, leased, found, ready)] == ["later", "leased", "leased", "ready"]
        assert [record.attempt for record in (later, leased, ready)] == [1, 1, 2]
        assert later.due == pytest.approx(delivery.due, abs=0.01)
        assert leased.due == pytest.approx(delivery.now + LONG, abs=0.01)
        assert (ready.error, ready.job.body, ready.cancelled) == (b"no", b"{}", False)
        assert ready.expires_at == pytest.approx(later.due + LONG, abs=0.01)
        await ack(backend.broker, await take_one(backend.broker, queue))
        assert await admin.lookup(ref(a_job(queue))) is None
        assert await admin.find(a_job(queue).id) is None

    async def test_admin_lists_jobs_by_rising_id_in_pages(self, backend: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, *(a_job(queue, name, priority=ord(name)) for name in "dbeca"))
        await add(backend.broker, a_job(queue, "z", delay=LONG))
        first = await admin.list_jobs(queue, "ready", after=None, limit=2)
        rest = await admin.list_jobs(queue, "ready", after=first[-1].job.id, limit=10)
        assert [record.job.id for record in [*first, *rest]] == [a_job(queue, name).id for name in "abcde"]
        assert [record.job.id for record in await admin.list_jobs(queue, "later", after=None, limit=10)] == [
            a_job(queue, "z").id
        ]
        assert list(await admin.list_jobs(queue, "dead", after=None, limit=10)) == []

    async def test_admin_looking_changes_nothing(self, backend: Backend, queue: str) -> None:
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue))
        for _ in range(3):
            await admin.stats()
            await admin.lookup(ref(a_job(queue)))
            await admin.list_jobs(queue, "ready", after=None, limit=5)
        delivery = await take_one(backend.broker, queue)
        assert (delivery.attempt, delivery.losses, delivery.cancelled) == (1, 0, False)

    # Hints

    async def test_hints_reach_every_listener_of_their_channel(
        self, backend: Backend, other: Backend, queue: str
    ) -> None:
        publisher, listener = part(backend.hints, "hints"), part(other.hints, "hints")
        one, two = f"{queue}-1", f"{queue}-2"
        async with publisher.subscribe([one]) as near, listener.subscribe([one, two]) as far:
            # A hint may be lost, so this one is repeated until each listener has had one.
            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_publish_again_and_again, backend, one, "wörld \n")
                    assert await anext(near) == Hint(one, "wörld \n")
                    assert await anext(far) == Hint(one, "wörld \n")
                    tasks.cancel_scope.cancel()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_publish_again_and_again, backend, two, "two")
                    while (await anext(far)).channel != two:
                        pass
                    tasks.cancel_scope.cancel()
            with anyio.move_on_after(SHORT):
                async for hint in near:
                    assert hint.channel == one

    async def test_hints_do_not_wait_for_a_listener(self, backend: Backend, queue: str) -> None:
        hints = part(backend.hints, "hints")
        with anyio.fail_after(SOON):
            await hints.publish(queue, "to nobody")
            async with hints.subscribe([queue]):
                for n in range(3000):
                    await hints.publish(queue, str(n))


async def _publish_again_and_again(backend: Backend, channel: str, data: str) -> None:
    while backend.hints is not None:
        await backend.hints.publish(channel, data)
        await anyio.sleep(0.01)


def _at(stats: QueueStats, oldest: float) -> QueueStats:
    """The same counts with another age: two looks are never at the same moment."""
    return QueueStats(
        queue=stats.queue, later=stats.later, ready=stats.ready, leased=stats.leased, dead=stats.dead, oldest=oldest
    )
