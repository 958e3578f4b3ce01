"""Whatever dies wherever, and in whatever order things happen: what follows an end follows it once."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from taskq.call import new_id
from taskq.flow import marks
from taskq.flow.failing import Failures
from taskq.flow.members import Membership
from taskq.flow.record import Record, batch_key, change, written
from taskq.job import Job
from taskq.outcome import Decision
from taskq.sequel import Plan, begin
from taskq.worker.effects import Effects
from taskq.worker.run import Decided, Run
from tests.flow.simulation import simulate

LONG = "TASKQ_TEST_LONG" in os.environ
SEEDS = range(1000 if LONG else 12)
"""The seeds under which all must hold."""
DEADLY = range(1000 if LONG else 100)
"""Those of which one is to find each planted bug: one of the first, but which one changes with every call there is."""

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_what_follows_an_end_follows_it_once_whatever_dies() -> None:
    found = {seed: offences for seed in SEEDS if (offences := simulate(seed))}

    assert not found, f"run one alone with tests.flow.simulation.simulate(seed): {found}"


def test_the_same_seed_is_the_same_world(monkeypatch: pytest.MonkeyPatch) -> None:
    ack_first(monkeypatch)
    seed = next(seed for seed in DEADLY if simulate(seed))

    assert simulate(seed) == simulate(seed)


# Planted bugs


def ack_first(patch: pytest.MonkeyPatch) -> None:
    carry_out = Effects.carry_out

    async def nothing(_self: Effects, decided: Sequence[Decided]) -> Sequence[Decided]:
        return decided

    patch.setattr(Effects, "carry_out", nothing)
    patch.setattr(Effects, "forget", carry_out)


def mark_before_effect(patch: pytest.MonkeyPatch) -> None:
    """Whoever finds a mark takes its effects for done."""
    restored = marks._restored  # pyright: ignore[reportPrivateUsage] - the planted bug's place

    def forgetful(mark: Any, receipt: str) -> Decision:
        found = restored(mark, receipt)
        return Decision(found.settlement, found.end, found.reason)

    patch.setattr(marks, "_restored", forgetful)


def effects_decided_twice(patch: pytest.MonkeyPatch) -> None:
    async def not_once(_self: Effects, _run: Run, decision: Decision) -> Decision:
        return decision

    patch.setattr(Effects, "_decided_once", not_once)


def follow_ups_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The mark of a follow-up goes with its settlement, as a head's does."""

    async def nothing(_self: Effects, _run: Run) -> None:
        return None

    patch.setattr(Effects, "find", nothing)


def over_before_callbacks(patch: pytest.MonkeyPatch) -> None:
    conclude = Membership.conclude

    async def early(self: Membership, id: str) -> None:
        store = self._store  # pyright: ignore[reportPrivateUsage] - as above
        before: list[Record] = []

        def over(record: Record) -> Record:
            before.append(record)
            return Record(plans={}, over=1.0, succeeded=True)

        if await change(store, id, over) is not None and not before[-1].succeeded:
            key = batch_key(id)
            value = (await store.get(key)).value
            await store.swap(key, value, written(before[-1]))
            await conclude(self, id)

    patch.setattr(Membership, "conclude", early)


def callbacks_under_new_ids(patch: pytest.MonkeyPatch) -> None:
    async def call_back(self: Membership, id: str, record: Record, event: str, value: bytes) -> None:
        plan: Plan | None = record.plans.get(event)
        if plan is not None:
            await self.enqueue([begin(plan, value, follows=id, id=f"{id}.{new_id()}.{event}")])

    patch.setattr(Membership, "_call_back", call_back)


def all_enqueued_again(patch: pytest.MonkeyPatch) -> None:
    admit = Membership.admit

    async def everybody(self: Membership, jobs: Sequence[Job], *, again: bool) -> Sequence[Job]:
        await admit(self, jobs, again=again)
        return jobs

    patch.setattr(Membership, "admit", everybody)


def enqueued_before_joining(patch: pytest.MonkeyPatch) -> None:
    admit = Membership.admit

    async def late(self: Membership, jobs: Sequence[Job], *, again: bool) -> Sequence[Job]:
        if not again:
            await self.enqueue(jobs)
        return await admit(self, jobs, again=again)

    patch.setattr(Membership, "admit", late)


def never_held_open(patch: pytest.MonkeyPatch) -> None:
    opened = Membership.open

    async def sealed(self: Membership, id: str, record: Record) -> bool:
        known = await opened(self, id, record)
        await self.seal(id)
        return known

    patch.setattr(Membership, "open", sealed)


def ends_not_told_apart(patch: pytest.MonkeyPatch) -> None:
    """Only that a member has failed is written down."""

    async def nothing(_self: Failures, _id: str, _member: str, _end: str) -> None:
        return None

    patch.setattr(Failures, "_tell_apart", nothing)


PLANTED: Sequence[Plant] = [
    ack_first,
    mark_before_effect,
    effects_decided_twice,
    follow_ups_forgotten,
    over_before_callbacks,
    callbacks_under_new_ids,
    all_enqueued_again,
    enqueued_before_joining,
    never_held_open,
    ends_not_told_apart,
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found_by_the_same_seeds(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)

    assert any(simulate(seed) for seed in DEADLY)
