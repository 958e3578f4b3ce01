"""C-E1 to C-E5: what an enqueue promises."""

# ruff: noqa: S101 (a contract is made of asserts)

import anyio
import pytest

from taskq.broker import Backend
from taskq.errors import Conflict, PayloadTooLarge
from taskq.job import Ack, DeadLetter, Nack
from taskq.testing.deployment import (
    LONG,
    SHORT,
    Deployment,
    a_job,
    ack,
    add,
    names,
    needs,
    nothing,
    part,
    ref,
    take,
    take_one,
    wait_until,
)


class EnqueueClauses:
    """Durability, answers, ids and unique keys."""

    # C-E1: as durable as the traits say

    async def test_c_e1_an_enqueued_job_is_there_for_every_connection(
        self, backend: Backend, deployment: Deployment, queue: str
    ) -> None:
        async with deployment.open() as gone:
            await add(gone.broker, a_job(queue))
        assert names(await take(backend.broker, queue)) == ["a"]

    async def test_c_e1_a_restart_spares_what_the_traits_promise(self, deployment: Deployment, queue: str) -> None:
        if deployment.restart is None:
            pytest.skip("this deployment cannot be restarted by a test")
        async with deployment.open() as before:
            await add(before.broker, a_job(queue))
            durability = before.broker.traits.durability
        await deployment.restart()
        async with deployment.open() as after:
            if durability == "process":
                assert await nothing(after.broker, queue)
            elif durability != "seconds":
                assert names(await take(after.broker, queue)) == ["a"]

    # C-E2: one answer per job

    async def test_c_e2_there_is_one_answer_per_job_in_order(self, backend: Backend, queue: str) -> None:
        jobs = [a_job(queue, f"{n:03}") for n in range(100)]
        answers = await backend.broker.enqueue(jobs)
        assert [answer.id for answer in answers] == [job.id for job in jobs]
        assert all(answer.added and answer.error is None for answer in answers)
        assert len(await take(backend.broker, queue, 100)) == 100

    async def test_c_e2_no_jobs_have_no_answers(self, backend: Backend) -> None:
        assert list(await backend.broker.enqueue([])) == []

    async def test_c_e2_an_oversize_job_is_refused_alone(self, backend: Backend, queue: str) -> None:
        huge = a_job(queue, "huge", body=b"x" * (backend.broker.traits.max_size + 1))
        answers = await backend.broker.enqueue([a_job(queue, "a"), huge, a_job(queue, "b")])
        assert [answer.added for answer in answers] == [True, False, True]
        assert [type(answer.error) for answer in answers] == [type(None), PayloadTooLarge, type(None)]
        assert sorted(names(await take(backend.broker, queue, 2))) == ["a", "b"]
        assert await nothing(backend.broker, queue)

    async def test_c_e2_jobs_of_several_queues_go_in_one_call(self, backend: Backend, queue: str) -> None:
        jobs = [a_job(f"{queue}-{n % 3}", str(n)) for n in range(9)]
        answers = await backend.broker.enqueue(jobs)
        assert [answer.id for answer in answers] == [job.id for job in jobs]
        assert sorted(names(await take(backend.broker, f"{queue}-1", 3))) == ["1", "4", "7"]

    # C-E3: ids

    async def test_c_e3_a_live_id_is_not_added_again(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "idempotent")
        await add(backend.broker, a_job(queue, body=b"first"), a_job(queue, "later", delay=LONG))
        again = [a_job(queue, body=b"second"), a_job(queue, "later")]
        assert [(a.id, a.added, a.error) for a in await other.broker.enqueue(again)] == [
            (job.id, False, None) for job in again
        ]
        delivery = await take_one(backend.broker, queue)
        assert delivery.job.body == b"first"
        assert await nothing(backend.broker, queue)

    async def test_c_e3_a_leased_id_is_not_added_again(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "idempotent")
        await add(backend.broker, a_job(queue))
        delivery = await take_one(backend.broker, queue)
        assert not (await backend.broker.enqueue([a_job(queue)]))[0].added
        await ack(backend.broker, delivery)
        assert await nothing(backend.broker, queue)

    async def test_c_e3_an_id_given_twice_in_one_call_is_added_once(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "idempotent")
        answers = await backend.broker.enqueue([a_job(queue, body=b"first"), a_job(queue, body=b"second")])
        assert [answer.added for answer in answers] == [True, False]
        assert (await take_one(backend.broker, queue)).job.body == b"first"
        assert await nothing(backend.broker, queue)

    async def test_c_e3_an_ended_id_is_refused_for_the_dedup_window_alone(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "idempotent")
        await add(backend.broker, a_job(queue))
        await ack(backend.broker, await take_one(backend.broker, queue))
        added = (await backend.broker.enqueue([a_job(queue)]))[0].added
        assert added == (backend.broker.traits.dedup_window == 0)

    async def test_c_e3_a_dead_letter_holds_its_id(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "idempotent")
        await add(backend.broker, a_job(queue))
        await backend.broker.settle([DeadLetter((await take_one(backend.broker, queue)).receipt, b"no")])
        answer = (await backend.broker.enqueue([a_job(queue)]))[0]
        assert (answer.id, answer.added, answer.error) == (a_job(queue).id, False, None)
        assert await nothing(backend.broker, queue)

    # C-E4: unique keys

    async def test_c_e4_a_held_key_answers_its_holder(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k"))
        answer = (await other.broker.enqueue([a_job(queue, "b", unique="k")]))[0]
        assert (answer.id, answer.added, answer.error) == (a_job(queue, "a").id, False, None)
        assert names(await take(backend.broker, queue)) == ["a"]
        assert await nothing(backend.broker, queue)

    async def test_c_e4_a_key_is_held_by_its_queue_alone(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(
            backend.broker, a_job(queue, unique="k"), a_job(f"{queue}-2", unique="k"), a_job(queue, "l", unique="l")
        )

    async def test_c_e4_a_key_given_twice_in_one_call_is_held_once(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        answers = await backend.broker.enqueue([a_job(queue, name, unique="k") for name in "abc"])
        assert [answer.added for answer in answers] == [True, False, False]
        assert {answer.id for answer in answers} == {a_job(queue, "a").id}

    async def test_c_e4_of_racing_callers_one_gets_the_key(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        added: list[bool] = []

        async def race(broker_of: Backend, name: str) -> None:
            added.append((await broker_of.broker.enqueue([a_job(queue, name, unique="k")]))[0].added)

        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(race, (backend, other)[n % 2], str(n))
        assert sorted(added) == [False] * 19 + [True]
        await take(backend.broker, queue)
        assert await nothing(backend.broker, queue)

    async def test_c_e4_raise_answers_a_conflict_with_its_holder(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k"))
        clash, fine = await backend.broker.enqueue(
            [a_job(queue, "b", unique="k", on_conflict="raise"), a_job(queue, "c")]
        )
        assert not clash.added
        assert isinstance(clash.error, Conflict)
        assert clash.error.holder == a_job(queue, "a").id
        assert fine.added

    async def test_c_e4_replace_gives_the_waiting_holder_the_new_call(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k", delay=LONG))
        new = a_job(
            queue,
            "b",
            task="test.other",
            body=b"new",
            headers={"h": "1"},
            priority=7,
            expires_in=LONG,
            unique="k",
            on_conflict="replace",
        )
        answer = (await backend.broker.enqueue([new]))[0]
        assert (answer.id, answer.added, answer.error) == (a_job(queue, "a").id, False, None)
        delivery = await take_one(backend.broker, queue)
        job = delivery.job
        assert (job.id, job.task, job.body, dict(job.headers), job.priority) == (
            a_job(queue, "a").id,
            "test.other",
            b"new",
            {"h": "1"},
            7,
        )
        assert delivery.expires_at == pytest.approx(delivery.due + LONG, abs=0.01)
        assert await nothing(backend.broker, queue)

    async def test_c_e4_replace_keeps_group_and_attempt(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        needs(backend.broker, "groups")
        await add(backend.broker, a_job(queue, "a", unique="k", group="g", group_limit=2))
        await backend.broker.settle([Nack((await take_one(backend.broker, queue)).receipt, LONG)])
        await backend.broker.enqueue([a_job(queue, "b", unique="k", on_conflict="replace")])
        delivery = await take_one(backend.broker, queue)
        assert (delivery.job.group, delivery.job.group_limit, delivery.attempt) == ("g", 2, 2)

    async def test_c_e4_replace_can_put_the_holder_off(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k"))
        await backend.broker.enqueue([a_job(queue, "b", unique="k", on_conflict="replace", delay=LONG)])
        assert await nothing(backend.broker, queue)

    async def test_c_e4_replace_refuses_a_leased_holder(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k", body=b"old"))
        delivery = await take_one(backend.broker, queue)
        answer = (await backend.broker.enqueue([a_job(queue, "b", unique="k", on_conflict="replace")]))[0]
        assert not answer.added
        assert isinstance(answer.error, Conflict)
        assert answer.error.holder == a_job(queue, "a").id
        await backend.broker.settle([Nack(delivery.receipt, 0)])
        assert (await take_one(backend.broker, queue)).job.body == b"old"

    async def test_c_e4_until_end_holds_the_key_over_start_and_nack(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        rival = a_job(queue, "b", unique="k")
        await add(backend.broker, a_job(queue, "a", unique="k"))
        delivery = await take_one(backend.broker, queue)
        assert not (await backend.broker.enqueue([rival]))[0].added
        await backend.broker.settle([Nack(delivery.receipt, 0)])
        assert not (await backend.broker.enqueue([rival]))[0].added
        await ack(backend.broker, await take_one(backend.broker, queue))
        await add(backend.broker, rival)

    async def test_c_e4_until_start_frees_the_key_at_the_first_fetch(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        rival = a_job(queue, "b", unique="k")
        await add(backend.broker, a_job(queue, "a", unique="k", unique_until="start"))
        assert not (await backend.broker.enqueue([rival]))[0].added
        await take(backend.broker, queue)
        await add(backend.broker, rival)

    async def test_c_e4_until_end_a_dead_letter_frees_the_key(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k"))
        await backend.broker.settle([DeadLetter((await take_one(backend.broker, queue)).receipt, b"no")])
        await add(backend.broker, a_job(queue, "b", unique="k"))

    async def test_c_e4_until_success_a_dead_letter_holds_the_key(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k", unique_until="success"))
        await backend.broker.settle([DeadLetter((await take_one(backend.broker, queue)).receipt, b"no")])
        answer = (await backend.broker.enqueue([a_job(queue, "b", unique="k")]))[0]
        assert (answer.id, answer.added) == (a_job(queue, "a").id, False)
        replacing = (await backend.broker.enqueue([a_job(queue, "b", unique="k", on_conflict="replace")]))[0]
        assert isinstance(replacing.error, Conflict)
        admin = part(backend.admin, "admin")
        assert list(await admin.revive([ref(a_job(queue, "a"))])) == ["revived"]
        await ack(backend.broker, await take_one(backend.broker, queue))
        await add(backend.broker, a_job(queue, "c", unique="k"))

    async def test_c_e4_until_success_a_purge_frees_the_key(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        admin = part(backend.admin, "admin")
        await add(backend.broker, a_job(queue, "a", unique="k", unique_until="success"))
        await backend.broker.settle([DeadLetter((await take_one(backend.broker, queue)).receipt, b"no")])
        assert list(await admin.purge([ref(a_job(queue, "a"))])) == [True]
        await add(backend.broker, a_job(queue, "b", unique="k"))

    async def test_c_e4_until_success_a_lapsed_dead_letter_frees_the_key(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k", unique_until="success"))
        receipt = (await take_one(backend.broker, queue)).receipt
        await backend.broker.settle([DeadLetter(receipt, b"no", keep=SHORT)])

        async def free() -> bool:
            return (await backend.broker.enqueue([a_job(queue, "b", unique="k")]))[0].added

        await wait_until(free)

    async def test_c_e4_until_seconds_frees_the_key_by_time(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k", unique_until=SHORT))

        async def free() -> bool:
            return (await backend.broker.enqueue([a_job(queue, "b", unique="k")]))[0].added

        await wait_until(free)
        assert not (await backend.broker.enqueue([a_job(queue, "c", unique="k")]))[0].added
        assert sorted(names(await take(backend.broker, queue, 2))) == ["a", "b"]

    async def test_c_e4_until_seconds_an_end_frees_the_key_sooner(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "unique")
        await add(backend.broker, a_job(queue, "a", unique="k", unique_until=LONG))
        assert not (await backend.broker.enqueue([a_job(queue, "b", unique="k")]))[0].added
        await backend.broker.settle([Ack((await take_one(backend.broker, queue)).receipt)])
        await add(backend.broker, a_job(queue, "b", unique="k"))

    # C-E5: whole or not at all, and repeatable

    async def test_c_e5_a_repeated_call_adds_nothing_twice(self, backend: Backend, other: Backend, queue: str) -> None:
        needs(backend.broker, "idempotent")
        jobs = [a_job(queue, str(n)) for n in range(50)]
        await add(backend.broker, *jobs[:30])
        answers = await other.broker.enqueue(jobs)
        assert [answer.added for answer in answers] == [False] * 30 + [True] * 20
        assert len(set(names(await take(backend.broker, queue, 50)))) == 50
        assert await nothing(backend.broker, queue)

    async def test_c_e5_a_cancelled_call_may_be_repeated(self, backend: Backend, queue: str) -> None:
        needs(backend.broker, "idempotent")
        jobs = [a_job(queue, str(n)) for n in range(50)]
        for turns in range(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(backend.broker.enqueue, jobs)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        await backend.broker.enqueue(jobs)
        deliveries = await take(backend.broker, queue, 50)
        assert sorted(d.job.id for d in deliveries) == sorted(job.id for job in jobs)
        assert all(d.job.body == b"{}" for d in deliveries)
        assert await nothing(backend.broker, queue)
