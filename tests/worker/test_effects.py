"""What an end brings about: exactly once in effect, whatever dies between the effect and the settlement."""

import asyncio
from functools import partial

import anyio
import msgspec
import pytest

from taskq import App, Death
from taskq.connect import connect
from taskq.errors import ConfigError
from taskq.flow.marks import REMEMBERED, find_mark
from taskq.flow.members import RESUMED, Membership
from taskq.flow.record import BatchReport, Ends, Record, report_of
from taskq.following import FollowUp
from taskq.job import Ack, DeadLetter, Job, JobRef
from taskq.outcome import Poisonous, Policy, Raised, Returned, decide
from taskq.sequel import Place, Plan, Step, planned, renamed
from taskq.testing import VirtualClock
from taskq.worker.effects import Effects, Left
from taskq.worker.run import Run
from tests.worker.moves import lose, wait_until
from tests.worker.tap import Tap

pytestmark = pytest.mark.anyio


def app_with_a_grave() -> tuple[App, list[Death]]:
    app = App("memory://", on_dead="bury", lease=0.5)
    buried: list[Death] = []

    @app.task(name="bury")
    async def bury(death: Death) -> None:
        buried.append(death)

    @app.task(name="fail", retry=1)
    async def fail(number: int) -> None:
        raise ValueError(f"number {number}")

    return app, buried


async def test_a_dead_letter_is_told_to_the_task_that_asked_for_it() -> None:
    app, buried = app_with_a_grave()
    async with app:
        job = await app.find_task("fail").defer(3)
        await app.run_worker(until="idle")
    (death,) = buried
    assert (death.id, death.task, death.end, death.attempts) == (job.id, "fail", "failed", 1)
    assert death.error is not None
    assert death.error.message == "number 3"


async def test_a_dead_follow_up_is_followed_by_nothing() -> None:
    app = App("memory://", on_dead="bury")
    runs: list[str] = []

    @app.task(name="bury", retry=1)
    async def bury(death: Death) -> None:
        runs.append(death.id)
        raise ValueError("the ground is frozen")

    @app.task(name="fail", retry=1)
    async def fail() -> None:
        raise ValueError

    async with app:
        await fail.defer()
        await app.run_worker(until="idle")
    assert len(runs) == 1


async def test_an_app_whose_follow_up_does_not_take_a_death_does_not_open() -> None:
    app = App("memory://", on_dead="count")

    @app.task(name="count")
    async def count(number: int) -> None: ...

    @app.task(name="fail")
    async def fail() -> None: ...

    with pytest.raises(ConfigError, match="one argument of type Death"):
        async with app:
            pass


async def test_what_an_app_takes_out_of_errors_is_not_stored() -> None:
    app = App("memory://", redact=lambda text: text.replace("hunter2", "…"))

    @app.task(name="login", retry=1)
    async def login(password: str) -> None:
        raise ValueError(f"wrong password {password}")

    async with app:
        job = await login.defer("hunter2")
        await app.run_worker(until="idle")
        ended = await job.outcome()
        record = await app.lookup(job.ref)
    assert record is not None
    assert b"hunter2" not in (record.outcome or b"")
    assert ended.errors[-1].message == "wrong password …"


async def test_an_end_that_was_written_down_is_the_one_that_counts() -> None:
    policy = Policy(
        retry=msgspec.structs.replace(Policy().retry, attempts=1), on_dead=FollowUp("bury", "graves", "death")
    )
    async with connect("memory://") as backend:
        effects = Effects(backend)
        await backend.broker.enqueue([Job(id="j", task="fail", body=b"{}")])
        (first,) = await backend.broker.fetch(["default"], 1, lease=0.05, wait=0)
        run = Run(first, policy)
        await effects.carry_out([(run, decide(Raised(ValueError("first")), first, policy, chance=0.0))])
        # The worker dies here: the effect is done, the settlement never sent.
        (second,) = await backend.broker.fetch(["default"], 1, lease=30, wait=5)
        again = Run(second, policy)
        recalled = await effects.find(again)
        assert recalled is not None
        other = decide(Raised(ValueError("second")), second, policy, chance=0.0)
        ((_, counting),) = await effects.carry_out([(again, other)])
        assert counting == recalled
        assert await backend.broker.settle([counting.settlement]) == [True]
        graves = await backend.broker.fetch(["graves"], 10, lease=30, wait=0)
        assert [delivery.job.id for delivery in graves] == ["j.dead"]
        assert b"first" in graves[0].job.body


async def test_an_end_whose_settlement_was_refused_stays_written_down_for_whoever_has_the_job_now() -> None:
    policy = Policy(
        retry=msgspec.structs.replace(Policy().retry, attempts=1), on_dead=FollowUp("bury", "graves", "death")
    )
    async with connect("memory://") as backend:
        effects = Effects(backend)
        await backend.broker.enqueue([Job(id="j", task="fail", body=b"{}")])
        (slow,) = await backend.broker.fetch(["default"], 1, lease=0.05, wait=0)
        run = Run(slow, policy)
        decided = await effects.carry_out([(run, decide(Raised(ValueError("slow")), slow, policy, chance=0.0))])
        (fast,) = await backend.broker.fetch(["default"], 1, lease=30, wait=5)
        assert await backend.broker.settle([decided[0][1].settlement]) == [False]
        await effects.forget(decided)
        recalled = await effects.find(Run(fast, policy))
        assert recalled is not None
        assert recalled.effects == decided[0][1].effects


async def test_who_comes_with_an_end_after_another_has_settled_it_brings_nothing_about() -> None:
    policy = Policy(
        retry=msgspec.structs.replace(Policy().retry, attempts=1), on_dead=FollowUp("bury", "graves", "death")
    )
    async with connect("memory://") as backend:
        effects = Effects(backend)
        await backend.broker.enqueue([Job(id="j", task="fail", body=b"{}")])
        (slow,) = await backend.broker.fetch(["default"], 1, lease=0.05, wait=0)
        (fast,) = await backend.broker.fetch(["default"], 1, lease=30, wait=5)
        run = Run(fast, policy)
        decided = await effects.carry_out([(run, decide(Raised(ValueError("fast")), fast, policy, chance=0.0))])
        (run.settled,) = await backend.broker.settle([decided[0][1].settlement])
        await effects.forget(decided)
        late = decide(Raised(ValueError("slow")), slow, policy, chance=0.0)
        assert late.effects
        ((_, counting),) = await effects.carry_out([(Run(slow, policy), late)])
        assert counting.effects == ()
        # It binds no revived job, not even one whose worker has died.
        assert backend.admin is not None
        assert await backend.admin.revive([JobRef("default", "j")]) == ["revived"]
        await backend.broker.fetch(["default"], 1, lease=0.05, wait=0)
        (revived,) = await backend.broker.fetch(["default"], 1, lease=30, wait=5)
        assert revived.losses == 1
        assert await effects.find(Run(revived, policy)) is None


async def test_the_head_of_a_chain_that_has_gone_on_is_no_dead_letter_when_it_is_delivered_too_often() -> None:
    policy, following = Policy(keep=60), Job(id="n", task="next", body=b"{}", queue="next")
    plan = Plan(next=(Step(following),), keeps=True)
    head = renamed(planned(Job(id="h", task="head", body=b"{}"), plan), "b.0", Place("b", "0/0", "0@default"))
    async with connect("memory://") as backend:
        assert backend.store is not None
        effects, members = Effects(backend), Membership(backend.store, backend.broker)
        await members.open("b", Record())
        await members.add([head], again=False)
        for queue, lease in (("default", 0.05), ("next", 30)):
            (delivery,) = await backend.broker.fetch([queue], 1, lease=lease, wait=0)
            decided = (Run(delivery, policy), decide(Returned(b"1"), delivery, policy, chance=0.0))
            await effects.carry_out([decided])
        (again,) = await backend.broker.fetch(["default"], 1, lease=30, wait=5)
        poisonous = decide(Poisonous(), again, policy, chance=0.0)
        ((_, counting),) = await effects.carry_out([(Run(again, policy), poisonous)])
        assert isinstance(poisonous.settlement, DeadLetter)
        assert (type(counting.settlement), counting.end) == (Ack, "returned")


@pytest.mark.parametrize("ends", [(True, False), (False, True)], ids=["returned", "failed"])
async def test_a_run_that_was_overtaken_counts_as_the_one_that_ended_before_it(ends: tuple[bool, bool]) -> None:
    policy = Policy(retry=msgspec.structs.replace(Policy().retry, attempts=1))
    member = renamed(Job(id="m", task="work", body=b"{}"), "b.0", Place("b", "0/0", "0@default"))
    returned, failed = Returned(), Raised(ValueError("failed"))
    async with connect("memory://") as backend:
        assert backend.store is not None
        effects, members = Effects(backend), Membership(backend.store, backend.broker)
        await members.open("b", Record())
        await members.add([member], again=False)
        await members.seal("b")
        (slow,) = await backend.broker.fetch(["default"], 1, lease=0.05, wait=0)
        (fast,) = await backend.broker.fetch(["default"], 1, lease=30, wait=5)
        for delivery, has_returned in zip((fast, slow), ends, strict=True):
            run = Run(delivery, policy)
            outcome = returned if has_returned else failed
            decided = await effects.carry_out([(run, decide(outcome, delivery, policy, chance=0.0))])
            (run.settled,) = await backend.broker.settle([decided[0][1].settlement])
            assert run.settled == (delivery is fast)
            await effects.forget(decided)
        assert await report_of(backend.store, "b", Record()) == (
            BatchReport("b", 1, 0) if ends[0] else BatchReport("b", 1, 1, ends=Ends(failed=1))
        )


@pytest.mark.parametrize("at_once", [False, True], ids=["apart", "at once"])
async def test_a_member_that_may_have_been_given_to_another_worker_does_not_just_leave(at_once: bool) -> None:
    members = [
        renamed(Job(id="m", task="work", body=b"{}"), f"b.{name}", Place("b", "0/0", f"{name}@default"))
        for name in range(4)
    ]
    async with connect("memory://") as backend:
        assert backend.store is not None
        seen = backend if at_once else msgspec.structs.replace(backend, discard_and_settle=None)
        effects, batch = Effects(seen, lease=30), Membership(backend.store, backend.broker)
        await batch.open("b", Record())
        await batch.add(members, again=False)
        deliveries = await backend.broker.fetch(["default"], 4, lease=30, wait=0)
        decided = [(Run(one), decide(Returned(), one, Policy(), chance=0.0)) for one in deliveries]
        first, sure, unsure, last = decided
        # Once in a while it is asked whether anybody wants to hear of the batch.
        left = await effects.leave([first])
        assert left.waiting == [first]
        await effects.finish(left.rest)
        unsure[0].held_since = anyio.current_time() - 40
        left = await effects.leave([sure, unsure])
        settled = [(sure, True)]
        assert left == (Left(settled=settled, unsure=[unsure]) if at_once else Left(done=[sure], unsure=[unsure]))
        await effects.carry_out([unsure])
        # Whose leaving brings about more waits for that.
        assert (await effects.leave([last])).waiting == [last]


async def test_the_mark_of_a_member_that_outlived_its_lease_stands_for_its_end_and_lapses(
    clock: VirtualClock,
) -> None:
    policy = Policy()
    member = renamed(Job(id="m", task="work", body=b"{}"), "b.0", Place("b", "0/0", "0@default"))
    async with connect("memory://") as backend:
        assert backend.store is not None
        effects, members = Effects(backend, lease=1.0), Membership(backend.store, backend.broker)
        await members.open("b", Record())
        await members.add([member], again=False)
        await members.seal("b")
        (slow,) = await backend.broker.fetch(["default"], 1, lease=1, wait=0)
        run = Run(slow, policy, held_since=asyncio.get_running_loop().time())
        # Nobody has taken the job meanwhile.
        await clock.advance(seconds=2)
        decided = await effects.carry_out([(run, decide(Returned(), slow, policy, chance=0.0))])
        (run.settled,) = await backend.broker.settle([decided[0][1].settlement])
        assert run.settled
        await effects.forget(decided)
        # As with any member that has a mark: a producer that begins again finds it.
        await backend.broker.enqueue([msgspec.structs.replace(member, headers={**member.headers, RESUMED: "1"})])
        (again,) = await backend.broker.fetch(["default"], 1, lease=30, wait=0)
        found = await effects.find(Run(again, policy))
        assert found is not None
        assert found.end == "returned"
        await clock.advance(seconds=REMEMBERED + 1)
        assert await find_mark(backend.store, slow) is None


async def test_a_follow_up_that_has_ended_does_not_run_again() -> None:
    app, buried = app_with_a_grave()
    async with app:
        job = await app.find_task("fail").defer(1)
        await app.run_worker(until="idle")
        # Its job's worker died after the effect and the effect is repeated, when the follow-up is gone already.
        death = buried[0]
        body = msgspec.json.encode({"v": 1, "args": {"death": death}})
        follow_up = Job(id=f"{job.id}.dead", task="bury", body=body, headers={"taskq-follows": job.id})
        await app.enqueue(follow_up)
        await app.run_worker(until="idle")
    assert len(buried) == 1


async def test_an_effect_whose_answer_was_lost_is_repeated_under_its_id(tap: Tap) -> None:
    app, buried = app_with_a_grave()

    @app.task(name="fail_in_the_dark", retry=1)
    async def fail() -> None:
        tap.broken = "after"
        raise ValueError

    async with app, anyio.create_task_group() as group:
        await fail.defer()
        group.start_soon(partial(app.run_worker, until="idle"))
        await wait_until(lambda: tap.sizes("enqueue").count(1) >= 3)
        tap.broken = "no"
    assert len(buried) == 1


async def test_a_revived_job_is_not_held_to_the_end_of_its_earlier_life() -> None:
    app = App("memory://", on_dead="bury", lease=0.5)
    runs: list[int] = []

    @app.task(name="bury")
    async def bury(death: Death) -> None: ...

    @app.task(name="fail", retry=1)
    async def fail() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError

    async with app:
        job = await fail.defer()
        await app.run_worker(until="idle")
        assert await app.admin.revive([job.ref]) == ["revived"]
        await lose(app, 1)
        await app.run_worker(until="idle")
        assert await job.status() == "gone"
    assert len(runs) == 2
