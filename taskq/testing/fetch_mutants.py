"""Brokers whose ``fetch`` breaks C-F1 to C-F8."""

import time
from collections.abc import Callable, Sequence

import anyio
from msgspec.structs import replace

from taskq.broker import Backend, Broker
from taskq.job import DeadLetter, Delivery, Lease, Nack, Settlement
from taskq.testing.deployment import LONG
from taskq.testing.mutant import Change, Fetch, Mutant, deliveries, jobs, settlements, verbs


def fetch_mutants() -> list[Mutant]:
    """One mutant at least for each of C-F1 to C-F8."""
    changes: list[tuple[str, str, Change]] = [
        (
            "jobs come before they are due",
            "test_c_f1_a_job_that_is_not_due_is_not_fetched",
            jobs(lambda job: replace(job, delay=0.0, run_at=None)),
        ),
        ("fetch takes one more than the limit", "test_c_f1_at_most_limit_jobs_come", verbs(fetch=_one_too_many)),
        ("leases are not kept", "test_c_f1_a_leased_job_is_not_fetched_again", verbs(fetch=_lease_of(lambda _: 0.0))),
        (
            "fetches race",
            "test_c_f1_racing_fetches_share_no_job",
            lambda backend: verbs(fetch=_hand_out_twice())(backend),
        ),
        (
            "a fetch never ends with nothing",
            "test_c_f1_an_empty_queue_gives_nothing_when_the_wait_is_over",
            verbs(fetch=_wait_of(lambda _: LONG)),
        ),
        (
            "headers are lost",
            "test_c_f2_a_delivery_carries_the_job_as_it_was_enqueued",
            jobs(lambda job: replace(job, headers={})),
        ),
        (
            "expiry counts from the enqueue",
            "test_c_f2_due_and_expiry_are_moments_of_the_backend",
            deliveries(lambda d: replace(d, expires_at=None if d.expires_at is None else d.expires_at - 1)),
        ),
        (
            "every nack counts",
            "test_c_f2_the_attempt_is_the_counted_ends_plus_one",
            settlements(lambda s: replace(s, counted=True) if isinstance(s, Nack) else s),
        ),
        (
            "a loss counts as an attempt",
            "test_c_f2_a_loss_is_not_a_counted_end",
            deliveries(lambda d: replace(d, attempt=d.attempt + d.losses)),
        ),
        ("losses are not counted", "test_c_f2_a_loss_is_not_a_counted_end", deliveries(lambda d: replace(d, losses=0))),
        (
            "the fence stands still",
            "test_c_f2_the_fence_rises_with_every_delivery",
            deliveries(lambda d: replace(d, fence=d.attempt)),
        ),
        (
            "a lapsed lease never comes back",
            "test_c_f3_a_lapsed_lease_comes_back_to_anyone_by_itself",
            verbs(fetch=_lease_of(lambda lease: lease + LONG)),
        ),
        ("a late settlement is refused", "test_c_f3_a_late_settlement_counts_until_another_fetch", _late_is_void),
        (
            "receipts are used again",
            "test_c_f3_another_fetch_voids_the_receipt",
            lambda backend: _receipt_is_the_id(backend, {}),
        ),
        (
            "receipts are the job's id",
            "test_c_f3_receipts_are_never_used_again",
            lambda backend: _receipt_is_the_id(backend, {}),
        ),
        ("priority is ignored", "test_c_f4_larger_priority_comes_first", jobs(lambda job: replace(job, priority=0))),
        ("the newest due comes first", "test_c_f4_then_the_oldest_due_comes_first", verbs(fetch=_backwards)),
        (
            "the newest job comes first",
            "test_c_f4_jobs_enqueued_one_after_another_come_in_that_order",
            verbs(fetch=_backwards),
        ),
        ("queues come in any order", "test_c_f4_queues_come_in_the_order_given", verbs(fetch=_queues_sorted)),
        (
            "a cancelled fetch withholds its jobs",
            "test_c_f5_a_cancelled_fetch_withholds_no_job_past_one_lease",
            verbs(fetch=_uncancellable),
        ),
        (
            "a waiting fetch hears of no new job",
            "test_c_f6_a_waiting_fetch_returns_when_a_job_arrives",
            verbs(fetch=_deaf),
        ),
        (
            "a waiting fetch sleeps over a due moment",
            "test_c_f6_a_waiting_fetch_returns_when_a_job_becomes_due",
            verbs(fetch=_deaf),
        ),
        ("one waiting fetch takes all", "test_c_f6_every_waiting_fetch_has_its_turn", verbs(fetch=_greedy)),
        ("groups are ignored", "test_c_f7_at_most_the_limit_is_leased", jobs(lambda job: replace(job, group=None))),
        (
            "groups race",
            "test_c_f7_racing_fetches_keep_the_limit",
            jobs(lambda job: replace(job, group_limit=job.group_limit + 1)),
        ),
        (
            "one place is no order",
            "test_c_f7_with_one_place_a_job_that_runs_again_keeps_it",
            jobs(lambda job: replace(job, group_limit=2)),
        ),
        (
            "a dead letter keeps its place",
            "test_c_f7_a_dead_letter_frees_its_place",
            settlements(lambda s: Nack(s.receipt, LONG) if isinstance(s, DeadLetter) else s),
        ),
        (
            "a full group holds others up",
            "test_c_f7_waiting_members_hold_nobody_else_up",
            jobs(lambda job: replace(job, group="g")),
        ),
        (
            "one fetch takes what a group lets go last",
            "test_c_f7_one_fetch_keeps_the_order_of_those_it_lets_go",
            verbs(fetch=_members_last),
        ),
        ("a freed place wakes nobody", "test_c_f7_a_freed_place_wakes_a_waiting_fetch", verbs(fetch=_deaf)),
        ("tenants are ignored", "test_c_f8_tenants_take_turns", jobs(lambda job: replace(job, tenant=None))),
        (
            "all are one tenant",
            "test_c_f8_tenants_take_turns_within_a_fetch",
            jobs(lambda job: replace(job, tenant="a")),
        ),
        (
            "a tenant's jobs go last",
            "test_c_f8_a_thousand_jobs_of_one_tenant_are_one_before_anothers",
            jobs(lambda job: job if job.tenant is None else replace(job, tenant=f"{job.tenant}{job.id}")),
        ),
        (
            "a job that runs again keeps its tenant's turn",
            "test_c_f8_a_job_that_runs_again_waits_for_its_tenants_turn",
            jobs(lambda job: replace(job, tenant=None)),
        ),
        (
            "a group's tenant has its turn, too",
            "test_c_f8_a_job_of_a_group_waits_for_its_group_alone",
            jobs(lambda job: replace(job, group=None)),
        ),
    ]
    return [Mutant(name=name, test=test, change=change) for name, test, change in changes]


async def _one_too_many(
    real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float
) -> Sequence[Delivery]:
    return await real.fetch(queues, limit + 1, lease=lease, wait=wait)


def _lease_of(change: Callable[[float], float]) -> Fetch:
    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return await real.fetch(queues, limit, lease=change(lease), wait=wait)

    return fetch


def _hand_out_twice() -> Fetch:
    last: list[Delivery] = []

    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        again = last[:1]
        last[:] = await real.fetch(queues, limit, lease=lease, wait=wait)
        return [*last, *again]

    return fetch


def _wait_of(change: Callable[[float], float]) -> Fetch:
    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return await real.fetch(queues, limit, lease=lease, wait=change(wait))

    return fetch


def _late_is_void(backend: Backend) -> Backend:
    ends: dict[str, float] = {}

    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        taken = await real.fetch(queues, limit, lease=lease, wait=wait)
        ends.update((delivery.receipt, time.monotonic() + lease) for delivery in taken)
        return taken

    async def settle(real: Broker, settlements: Sequence[Settlement]) -> Sequence[bool]:
        now = time.monotonic()
        return [
            ends.get(settlement.receipt, 0) > now and (await real.settle([settlement]))[0] for settlement in settlements
        ]

    return verbs(fetch=fetch, settle=settle)(backend)


def _receipt_is_the_id(backend: Backend, latest: dict[str, str]) -> Backend:
    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        taken = await real.fetch(queues, limit, lease=lease, wait=wait)
        latest.update((delivery.job.id, delivery.receipt) for delivery in taken)
        return [replace(delivery, receipt=delivery.job.id) for delivery in taken]

    async def settle(real: Broker, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return await real.settle([replace(s, receipt=latest.get(s.receipt, s.receipt)) for s in settlements])

    async def extend(real: Broker, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await real.extend([latest.get(receipt, receipt) for receipt in receipts], lease)

    return verbs(fetch=fetch, settle=settle, extend=extend)(backend)


async def _backwards(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
    return list(await real.fetch(queues, limit, lease=lease, wait=wait))[::-1]


async def _members_last(
    real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float
) -> Sequence[Delivery]:
    taken = await real.fetch(queues, limit, lease=lease, wait=wait)
    return sorted(taken, key=lambda delivery: delivery.job.group is not None)


async def _queues_sorted(
    real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float
) -> Sequence[Delivery]:
    return await real.fetch(sorted(queues), limit, lease=lease, wait=wait)


async def _uncancellable(
    real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float
) -> Sequence[Delivery]:
    taken: Sequence[Delivery] = []
    with anyio.CancelScope(shield=True):
        taken = await real.fetch(queues, limit, lease=lease + LONG, wait=min(wait, 1.0))
    await anyio.lowlevel.checkpoint()
    return taken


async def _deaf(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
    taken = await real.fetch(queues, limit, lease=lease, wait=0)
    if not taken and wait > 1:
        await anyio.sleep(wait)
    return taken


async def _greedy(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
    return list(await real.fetch(queues, 100, lease=lease, wait=wait))[:limit]
