"""What an end brings about is carried out before it is settled, and an end with effects is decided once.

A crash between an effect and the settlement repeats the effect, and a follow-up may have ended by then. So the
decision is written down first: whoever finds it there carries out that one, and a follow-up that finds its own end
written down does not run again. Jobs without effects pay for none of this.
"""

import asyncio
from collections.abc import Sequence
from itertools import starmap
from math import inf
from operator import attrgetter

from msgspec import Struct
from msgspec.structs import replace

from taskq.broker import Backend
from taskq.flow.given import take_back
from taskq.flow.marks import decide_once, find_mark, forget, leaves_by_membership, needs_mark
from taskq.flow.members import RESUMED, Membership, Rest, all_of
from taskq.flow.places import grouped
from taskq.job import Ack, DeadLetter, Job, JobRef
from taskq.outcome import Decision
from taskq.sequel import FLOW, FOLLOWS, Leave, Place, plan_of
from taskq.worker.run import Decided, Run

_due, _now = attrgetter("due"), attrgetter("now")


class Left(Struct, frozen=True, gc=False):
    """What comes of members that leave their batches."""

    settled: Sequence[tuple[Decided, bool]] = ()
    """Whether they were settled with it, or their receipts void."""
    done: Sequence[Decided] = ()
    """They may be settled."""
    unsure: Sequence[Decided] = ()
    """They have not left: others may have the jobs by now, so that their ends are to be carried out."""
    waiting: Sequence[Decided] = ()
    """They may be settled when the rest is done."""
    rest: Sequence[Rest] = ()


class Effects:
    """Enqueues follow-ups; without a Store, one may run again when its job's worker died at the wrong moment."""

    def __init__(self, backend: Backend, lease: float = inf) -> None:
        self._backend = backend
        self._lease = lease
        """Seconds after which a job that is held may have been given to another worker."""
        self._broker = backend.broker
        self._store = backend.store
        self._members = None if backend.store is None else Membership(backend.store, backend.broker)

    async def find(self, run: Run) -> Decision | None:
        """What was decided about this job in an earlier delivery that came to its end but not to its settlement."""
        job, losses = run.delivery.job, run.delivery.losses
        again = losses > 0 or RESUMED in job.headers
        if self._store is None or not (
            FOLLOWS in job.headers or (losses and run.policy.on_dead) or (again and FLOW in job.headers)
        ):
            return None
        found = await find_mark(self._store, run.delivery)
        return await self._returned_before(run) if found is None and again else found

    async def _returned_before(self, run: Run) -> Decision | None:
        """A member that has left its batch has ended; only for a result that was never kept it runs again.

        Of one that was enqueued a second time it is not known, and what it does counts for more than what it answers.
        """
        job, plan = run.delivery.job, plan_of(run.delivery.job)
        if self._members is None or plan is None or plan.place is None or plan.next or plan.place.collects:
            return None
        if not await self._members.has_returned(plan.place):
            return None
        if run.policy.keep and RESUMED not in job.headers:
            return None
        return _as_returned(run, plan.place)

    async def carry_out(self, decided: Sequence[Decided]) -> Sequence[Decided]:
        """The same, with the decisions that count, when all that follows from them is done."""
        sure_since = asyncio.get_running_loop().time() - self._lease
        unsure = [
            one for one in decided if needs_mark(one[1], one[0].delivery, outlived=one[0].held_since < sure_since)
        ]
        marked: Sequence[Decided] = ()
        if unsure:
            decisions = await all_of(starmap(self._decided_once, unsure))
            marked = [(run, decision) for (run, _), decision in zip(unsure, decisions, strict=True)]
            counting = {id(run): decision for run, decision in marked}
            for run, _ in unsure:
                run.remembered = True
            decided = [(run, counting.get(id(run), decision)) for run, decision in decided]
            await self._bring_about(marked)
        leaves = [decision.leaves for _, decision in decided if decision.leaves]
        if self._members is not None and leaves:
            due, fetched = _moments(decided)
            await self._members.leave(leaves, due=due, fetched=fetched)
        for run, decision in marked:
            if decision.effects and decision.end == "returned":
                await self._stop_in_cancelled(run.delivery.job, decision.effects)
        return decided

    async def leave(self, decided: Sequence[Decided]) -> Left:
        """Members of whom :func:`only_leaves` is true leave their batches, in as few calls as that takes."""
        sure_since = asyncio.get_running_loop().time() - self._lease
        unsure: Sequence[Decided] = ()
        if min(run.held_since for run, _ in decided) < sure_since:
            unsure = [one for one in decided if one[0].held_since < sure_since]
            decided = [one for one in decided if one[0].held_since >= sure_since]
        if self._members is None or not decided:
            return Left(done=decided, unsure=unsure)
        leaves = [decision.leaves for _, decision in decided if decision.leaves]
        due, fetched = _moments(decided)
        at_once = self._backend.discard_and_settle
        if at_once is None:
            rest = await self._members.step_out(leaves, due=due, fetched=fetched)
        else:
            settlements = [decision.settlement for _, decision in decided]
            settled, rest = await self._members.settle(leaves, settlements, at_once, due=due, fetched=fetched)
            if settled:
                return Left([*zip(decided, settled, strict=True)], unsure=unsure)
        if not rest:
            return Left(done=decided, unsure=unsure)
        last = {(one.batch, member) for one in rest for member in one.members}
        waiting = [one for one in decided if _left(one) in last]
        done = [one for one in decided if _left(one) not in last]
        return Left(done=done, unsure=unsure, waiting=waiting, rest=rest)

    async def finish(self, rest: Sequence[Rest]) -> None:
        """Do what those who have left brought about."""
        if self._members is not None:
            await self._members.finish(rest)

    async def forget(self, decided: Sequence[Decided]) -> None:
        """Now that these are settled, their marks would only bind a revived job.

        One whose settlement was refused is not: whoever has the job now may find the mark yet, and must obey it. Those
        that were made only for a run that had outlived its lease are of members that returned: they stay for a week.
        """
        if self._store is not None:
            store = self._store
            settled = [(run, decision) for run, decision in decided if run.settled]
            marked = [(run, decision) for run, decision in settled if needs_mark(decision, run.delivery)]
            await all_of(forget(store, decision, run.delivery) for run, decision in marked)
            await all_of(take_back(store, run.delivery.job) for run, _ in settled if run.given)

    async def _decided_once(self, run: Run, decision: Decision) -> Decision:
        decision = await self._counting(run, decision)
        # What counts instead may need none.
        if self._store is None or not needs_mark(decision, run.delivery, outlived=True):
            return decision
        return await decide_once(self._store, decision, run.delivery)

    async def _counting(self, run: Run, decision: Decision) -> Decision:
        """What a repeated delivery comes to does not count when the member had returned before."""
        leaves = decision.leaves
        again = run.delivery.losses or RESUMED in run.delivery.job.headers
        if leaves is None or leaves.succeeded or not again or self._members is None:
            return decision
        if not await self._members.has_returned(leaves.place):
            return decision
        # The head of a chain that has gone on has said so; one that is delivered too often is not asked before.
        found = None if self._store is None else await find_mark(self._store, run.delivery)
        if found is not None:
            return found
        if run.policy.keep and RESUMED not in run.delivery.job.headers:
            return replace(decision, leaves=replace(leaves, succeeded=True))
        return _as_returned(run, leaves.place)

    async def _bring_about(self, marked: Sequence[Decided]) -> None:
        """Enqueue what follows, and the members that members add."""
        effects = [job for _, decision in marked for job in decision.effects]
        if effects:
            for answer in await self._broker.enqueue(effects):
                if answer.error is not None:
                    raise answer.error
        for run, decision in marked:
            if decision.leaves and decision.leaves.adds and self._members is not None:
                await self._members.add(decision.leaves.adds, again=run.delivery.losses > 0)

    async def _stop_in_cancelled(self, job: Job, following: Sequence[Job]) -> None:
        """A chain in a cancelled batch goes no further than to be told."""
        plan, admin = plan_of(job), self._backend.admin
        if plan is None or plan.place is None or admin is None or self._members is None:
            return
        if await self._members.is_cancelled(plan.place.batch):
            await admin.cancel([JobRef(job.queue, job.id) for job in following])


def is_remembered(run: Run, decision: Decision) -> bool:
    """Whether anything but a mark may be known of the job beyond its row.

    One test for each job, so that plain ones, nearly all, pay nothing for what the others need.
    """
    current = run.current
    return (
        run.started is None
        or run.given
        or current is None
        or current.notes is not None
        # Dead letters are counted.
        or isinstance(decision.settlement, DeadLetter)
    )


def only_leaves(run: Run, decision: Decision) -> bool:
    """Whether all that follows is that a member leaves its batch, which it does once, however often it tries."""
    return not run.remembered and leaves_by_membership(decision, run.delivery)


def by_chunk(decided: Sequence[Decided]) -> Sequence[Sequence[Decided]]:
    """Members that leave, those of each chunk and queue by themselves."""
    return list(grouped(decided, _chunk).values())


def _chunk(decided: Decided) -> tuple[str, str, str]:
    run, decision = decided
    assert decision.leaves is not None, "only those who leave are asked for"  # noqa: S101
    place = decision.leaves.place
    return place.batch, place.chunk, run.delivery.job.queue


def _left(decided: Decided) -> tuple[str, str] | None:
    leaves = decided[1].leaves
    return None if leaves is None else (leaves.place.batch, leaves.place.member)


def _moments(decided: Sequence[Decided]) -> tuple[float, float]:
    """When the last of them was due and when it was fetched, by the backend's clock."""
    deliveries = [run.delivery for run, _ in decided]
    return max(map(_due, deliveries)), max(map(_now, deliveries))


def _as_returned(run: Run, place: Place) -> Decision:
    leaves = Leave(place, succeeded=True)
    return Decision(Ack(run.delivery.receipt), "returned", "it had ended already", leaves=leaves)
