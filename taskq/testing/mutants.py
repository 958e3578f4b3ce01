"""Broken brokers, at least one a clause: each must fail its clause, or the clause proves nothing."""

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf

import anyio
from msgspec.structs import replace

from taskq.broker import Backend, Broker, Extender
from taskq.errors import BrokerError, BrokerUnavailable
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, Lease, Nack, Settlement
from taskq.testing.deployment import LONG
from taskq.testing.mutant import Enqueue, Extend, Fetch, Mutant, Settle, TwistedBroker

Change = Callable[[Backend], Backend]


def broker_mutants() -> list[Mutant]:
    """Wrappers around the four verbs of any backend."""
    return [
        *(Mutant(name=name, test=test, change=change) for name, test, change in _enqueue_mutants()),
        *(Mutant(name=name, test=test, change=change) for name, test, change in _fetch_mutants()),
        *(Mutant(name=name, test=test, change=change) for name, test, change in _settle_mutants()),
        *(Mutant(name=name, test=test, change=change) for name, test, change in _connection_mutants()),
    ]


def _enqueue_mutants() -> list[tuple[str, str, Change]]:
    return [
        (
            "enqueue answers before the jobs are stored",
            "test_c_e1_an_enqueued_job_is_there_for_every_connection",
            lambda backend: _verbs(backend, enqueue=_lazily()),
        ),
        ("durability is a lie", "test_c_e1_a_restart_spares_what_the_traits_promise", _lie_about_durability),
        (
            "enqueue drops the last job",
            "test_c_e2_there_is_one_answer_per_job_in_order",
            lambda backend: _verbs(backend, enqueue=_drop_the_last),
        ),
        (
            "answers come in any order",
            "test_c_e2_there_is_one_answer_per_job_in_order",
            lambda backend: _verbs(backend, enqueue=_answer_backwards),
        ),
        (
            "a refused job takes the others with it",
            "test_c_e2_an_oversize_job_is_refused_alone",
            lambda backend: _verbs(backend, enqueue=_refuse_all),
        ),
        (
            "a live id is added again",
            "test_c_e3_a_live_id_is_not_added_again",
            lambda backend: _verbs(backend, enqueue=_add_anyway),
        ),
        (
            "a dead letter's id is added again",
            "test_c_e3_a_dead_letter_holds_its_id",
            lambda backend: _verbs(backend, enqueue=_add_anyway),
        ),
        (
            "an id is added twice in a call",
            "test_c_e3_an_id_given_twice_in_one_call_is_added_once",
            lambda backend: _verbs(backend, enqueue=_add_anyway),
        ),
        ("keys are ignored", "test_c_e4_a_held_key_answers_its_holder", _jobs(lambda job: replace(job, unique=None))),
        (
            "keys are checked outside the transaction",
            "test_c_e4_of_racing_callers_one_gets_the_key",
            _jobs(lambda job: replace(job, unique=None)),
        ),
        (
            "keys of all queues are one",
            "test_c_e4_a_key_is_held_by_its_queue_alone",
            lambda backend: _verbs(backend, enqueue=_one_key_everywhere()),
        ),
        (
            "raise is taken for return",
            "test_c_e4_raise_answers_a_conflict_with_its_holder",
            _jobs(lambda job: replace(job, on_conflict="return")),
        ),
        (
            "replace is taken for return",
            "test_c_e4_replace_gives_the_waiting_holder_the_new_call",
            _jobs(lambda job: replace(job, on_conflict="return")),
        ),
        (
            "replace keeps the due moment",
            "test_c_e4_replace_can_put_the_holder_off",
            _jobs(lambda job: replace(job, delay=0) if job.on_conflict == "replace" else job),
        ),
        (
            "a leased holder is not told from a waiting one",
            "test_c_e4_replace_refuses_a_leased_holder",
            _jobs(lambda job: replace(job, on_conflict="return")),
        ),
        (
            "start is taken for end",
            "test_c_e4_until_start_frees_the_key_at_the_first_fetch",
            _jobs(lambda job: replace(job, unique_until="end")),
        ),
        (
            "end is taken for start",
            "test_c_e4_until_end_holds_the_key_over_start_and_nack",
            _jobs(lambda job: replace(job, unique_until="start")),
        ),
        (
            "success is taken for end",
            "test_c_e4_until_success_a_dead_letter_holds_the_key",
            _jobs(lambda job: replace(job, unique_until="end")),
        ),
        (
            "end is taken for success",
            "test_c_e4_until_end_a_dead_letter_frees_the_key",
            _jobs(lambda job: replace(job, unique_until="success")),
        ),
        (
            "seconds are taken for end",
            "test_c_e4_until_seconds_frees_the_key_by_time",
            _jobs(lambda job: replace(job, unique_until="end")),
        ),
        (
            "a repeated call adds its jobs twice",
            "test_c_e5_a_repeated_call_adds_nothing_twice",
            lambda backend: _verbs(backend, enqueue=_add_anyway),
        ),
        (
            "a job is added by halves",
            "test_c_e5_a_cancelled_call_may_be_repeated",
            _jobs(lambda job: replace(job, body=b"")),
        ),
    ]


def _fetch_mutants() -> list[tuple[str, str, Change]]:
    return [
        (
            "jobs come before they are due",
            "test_c_f1_a_job_that_is_not_due_is_not_fetched",
            _jobs(lambda job: replace(job, delay=0.0, run_at=None)),
        ),
        (
            "fetch takes one more than the limit",
            "test_c_f1_at_most_limit_jobs_come",
            lambda backend: _verbs(backend, fetch=_one_too_many),
        ),
        (
            "leases are not kept",
            "test_c_f1_a_leased_job_is_not_fetched_again",
            lambda backend: _verbs(backend, fetch=_lease_of(lambda _: 0.0)),
        ),
        (
            "fetches race",
            "test_c_f1_racing_fetches_share_no_job",
            lambda backend: _verbs(backend, fetch=_hand_out_twice()),
        ),
        (
            "a fetch never ends with nothing",
            "test_c_f1_an_empty_queue_gives_nothing_when_the_wait_is_over",
            lambda backend: _verbs(backend, fetch=_wait_of(lambda _: LONG)),
        ),
        (
            "headers are lost",
            "test_c_f2_a_delivery_carries_the_job_as_it_was_enqueued",
            _jobs(lambda job: replace(job, headers={})),
        ),
        (
            "expiry counts from the enqueue",
            "test_c_f2_due_and_expiry_are_moments_of_the_backend",
            _deliveries(lambda d: replace(d, expires_at=None if d.expires_at is None else d.expires_at - 1)),
        ),
        (
            "every nack counts",
            "test_c_f2_the_attempt_is_the_counted_ends_plus_one",
            _settlements(lambda s: replace(s, counted=True) if isinstance(s, Nack) else s),
        ),
        (
            "a loss counts as an attempt",
            "test_c_f2_a_loss_is_not_a_counted_end",
            _deliveries(lambda d: replace(d, attempt=d.attempt + d.losses)),
        ),
        (
            "losses are not counted",
            "test_c_f2_a_loss_is_not_a_counted_end",
            _deliveries(lambda d: replace(d, losses=0)),
        ),
        (
            "the fence stands still",
            "test_c_f2_the_fence_rises_with_every_delivery",
            _deliveries(lambda d: replace(d, fence=d.attempt)),
        ),
        (
            "a lapsed lease never comes back",
            "test_c_f3_a_lapsed_lease_comes_back_to_anyone_by_itself",
            lambda backend: _verbs(backend, fetch=_lease_of(lambda lease: lease + LONG)),
        ),
        (
            "a late settlement is refused",
            "test_c_f3_a_late_settlement_counts_until_another_fetch",
            lambda backend: _late_is_void(backend),
        ),
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
        ("priority is ignored", "test_c_f4_larger_priority_comes_first", _jobs(lambda job: replace(job, priority=0))),
        (
            "the newest due comes first",
            "test_c_f4_then_the_oldest_due_comes_first",
            lambda backend: _verbs(backend, fetch=_backwards),
        ),
        (
            "the newest job comes first",
            "test_c_f4_jobs_enqueued_one_after_another_come_in_that_order",
            lambda backend: _verbs(backend, fetch=_backwards),
        ),
        (
            "queues come in any order",
            "test_c_f4_queues_come_in_the_order_given",
            lambda backend: _verbs(backend, fetch=_queues_sorted),
        ),
        (
            "a cancelled fetch withholds its jobs",
            "test_c_f5_a_cancelled_fetch_withholds_no_job_past_one_lease",
            lambda backend: _verbs(backend, fetch=_uncancellable),
        ),
        (
            "a waiting fetch hears of no new job",
            "test_c_f6_a_waiting_fetch_returns_when_a_job_arrives",
            lambda backend: _verbs(backend, fetch=_deaf),
        ),
        (
            "a waiting fetch sleeps over a due moment",
            "test_c_f6_a_waiting_fetch_returns_when_a_job_becomes_due",
            lambda backend: _verbs(backend, fetch=_deaf),
        ),
        (
            "one waiting fetch takes all",
            "test_c_f6_every_waiting_fetch_has_its_turn",
            lambda backend: _verbs(backend, fetch=_greedy),
        ),
        ("groups are ignored", "test_c_f7_at_most_the_limit_is_leased", _jobs(lambda job: replace(job, group=None))),
        (
            "groups race",
            "test_c_f7_racing_fetches_keep_the_limit",
            _jobs(lambda job: replace(job, group_limit=job.group_limit + 1)),
        ),
        (
            "one place is no order",
            "test_c_f7_with_one_place_a_job_that_runs_again_keeps_it",
            _jobs(lambda job: replace(job, group_limit=2)),
        ),
        (
            "a dead letter keeps its place",
            "test_c_f7_a_dead_letter_frees_its_place",
            _settlements(lambda s: Nack(s.receipt, LONG) if isinstance(s, DeadLetter) else s),
        ),
        (
            "a full group holds others up",
            "test_c_f7_waiting_members_hold_nobody_else_up",
            _jobs(lambda job: replace(job, group="g")),
        ),
        (
            "a freed place wakes nobody",
            "test_c_f7_a_freed_place_wakes_a_waiting_fetch",
            lambda backend: _verbs(backend, fetch=_deaf),
        ),
    ]


def _settle_mutants() -> list[tuple[str, str, Change]]:
    return [
        (
            "settle answers in any order",
            "test_c_s1_there_is_one_answer_per_settlement_in_order",
            lambda backend: _verbs(backend, settle=_bools_backwards),
        ),
        (
            "settle answers True for void receipts",
            "test_c_s1_a_void_receipt_changes_nothing",
            lambda backend: _verbs(backend, settle=_always_true),
        ),
        (
            "an ack leaves the job",
            "test_c_s2_an_ack_removes_the_job",
            _settlements(lambda s: Nack(s.receipt, 0.1) if isinstance(s, Ack) else s),
        ),
        (
            "outcomes are not kept",
            "test_c_s2_an_outcome_can_be_read_by_anyone",
            _settlements(lambda s: replace(s, outcome=None) if isinstance(s, Ack) else s),
        ),
        (
            "outcomes are kept for ever",
            "test_c_s2_an_outcome_is_kept_as_long_as_said",
            _settlements(lambda s: replace(s, keep=LONG) if isinstance(s, Ack) else s),
        ),
        (
            "a nack's delay is ignored",
            "test_c_s3_a_nack_makes_the_job_due_after_its_time",
            _settlements(lambda s: replace(s, after=0.0) if isinstance(s, Nack) else s),
        ),
        (
            "an uncounted nack counts",
            "test_c_s3_an_uncounted_nack_leaves_the_attempt",
            _settlements(lambda s: replace(s, counted=True) if isinstance(s, Nack) else s),
        ),
        (
            "no nack counts",
            "test_c_s3_a_counted_nack_counts",
            _settlements(lambda s: replace(s, counted=False) if isinstance(s, Nack) else s),
        ),
        (
            "errors are dropped",
            "test_c_s3_an_error_is_kept_until_the_next_one",
            _settlements(lambda s: replace(s, error=None) if isinstance(s, Nack) else s),
        ),
        (
            "a dead letter is only put off",
            "test_c_s4_a_dead_letter_leaves_the_queue",
            _settlements(lambda s: Nack(s.receipt, 0.1) if isinstance(s, DeadLetter) else s),
        ),
        (
            "a dead letter is thrown away",
            "test_c_s4_a_dead_letter_is_kept_with_its_outcome",
            _settlements(lambda s: Ack(s.receipt, s.outcome, LONG) if isinstance(s, DeadLetter) else s),
        ),
        (
            "dead letters never lapse",
            "test_c_s4_a_dead_letter_lapses_when_said",
            _settlements(lambda s: replace(s, keep=inf) if isinstance(s, DeadLetter) else s),
        ),
        (
            "a receipt settles again and again",
            "test_c_s5_a_receipt_settles_once",
            lambda backend: _verbs(backend, settle=_always_true),
        ),
        (
            "a receipt settles twice in a call",
            "test_c_s5_a_receipt_settles_once_within_a_call",
            lambda backend: _verbs(backend, settle=_always_true),
        ),
        (
            "of racing settlements all count",
            "test_c_s5_of_racing_settlements_one_counts",
            lambda backend: _verbs(backend, settle=_always_true),
        ),
        (
            "extend adds to the lease",
            "test_c_x1_extending_counts_from_now",
            lambda backend: _verbs(backend, extend=_extend_by(lambda lease: lease + LONG)),
        ),
        (
            "extend extends nothing",
            "test_c_x1_an_extended_lease_outlives_its_first_end",
            lambda backend: _verbs(backend, extend=_extend_nothing),
        ),
        (
            "extend answers HELD for all",
            "test_c_x1_there_is_one_answer_per_receipt_in_order",
            lambda backend: _verbs(backend, extend=_extend_nothing),
        ),
        (
            "extend lies after a lapse",
            "test_c_x1_what_extend_answers_after_a_lapse_is_true",
            lambda backend: _verbs(backend, extend=_extend_nothing),
        ),
        ("the extender extends nothing", "test_c_x1_another_threads_loop_can_extend", _idle_extender),
        (
            "extend forgets to tell of a cancel",
            "test_c_x1_extend_tells_that_the_job_is_cancelled",
            lambda backend: _verbs(backend, extend=_extend_untold),
        ),
        (
            "a delivery forgets that it is cancelled",
            "test_c_x2_a_cancelled_waiting_job_is_due_and_says_so",
            _deliveries(lambda d: replace(d, cancelled=False)),
        ),
    ]


def _connection_mutants() -> list[tuple[str, str, Change]]:
    return [
        (
            "driver errors leave bare",
            "test_c_a1_a_closed_connection_says_so_in_our_words",
            lambda backend: _verbs(backend, enqueue=_bare_errors),
        ),
        (
            "a severed call answers nothing",
            "test_c_a1_a_driver_error_leaves_as_ours_with_its_cause",
            lambda backend: _verbs(backend, settle=_swallow_errors),
        ),
        (
            "due moments are the caller's",
            "test_c_a2_due_moments_are_the_backends",
            _jobs(
                lambda job: job if job.run_at is None else replace(job, run_at=None, delay=job.run_at - _slow_clock())
            ),
        ),
        (
            "one caller at a time",
            "test_c_a3_any_number_of_tasks_may_call_at_once",
            lambda backend: _verbs(backend, fetch=_one_at_a_time()),
        ),
        (
            "waiting fetches outlive the connection",
            "test_c_a3_leaving_the_connection_ends_waiting_fetches",
            lambda backend: _verbs(backend, fetch=_wait_for_ever),
        ),
        (
            "outcomes stay behind",
            "test_c_a4_nothing_outlives_its_job",
            _settlements(lambda s: replace(s, outcome=b"left", keep=LONG) if isinstance(s, Ack) else s),
        ),
        (
            "dead letters stay behind",
            "test_c_a4_nothing_outlives_its_job",
            _settlements(lambda s: replace(s, keep=inf) if isinstance(s, DeadLetter) else s),
        ),
    ]


# How to break things


def _verbs(
    backend: Backend,
    *,
    enqueue: Enqueue | None = None,
    fetch: Fetch | None = None,
    settle: Settle | None = None,
    extend: Extend | None = None,
) -> Backend:
    broker = TwistedBroker(backend.broker, enqueue=enqueue, fetch=fetch, settle=settle, extend=extend)
    return replace(backend, broker=broker)


def _jobs(change: Callable[[Job], Job]) -> Change:
    """Every job is changed on its way in."""

    async def enqueue(real: Broker, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        return await real.enqueue([change(job) for job in jobs])

    return lambda backend: _verbs(backend, enqueue=enqueue)


def _deliveries(change: Callable[[Delivery], Delivery]) -> Change:
    """Every delivery is changed on its way out."""

    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return [change(delivery) for delivery in await real.fetch(queues, limit, lease=lease, wait=wait)]

    return lambda backend: _verbs(backend, fetch=fetch)


def _settlements(change: Callable[[Settlement], Settlement]) -> Change:
    """Every settlement is changed on its way in."""

    async def settle(real: Broker, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return await real.settle([change(settlement) for settlement in settlements])

    return lambda backend: _verbs(backend, settle=settle)


def _lazily() -> Enqueue:
    last: deque[Sequence[Job]] = deque()

    async def enqueue(real: Broker, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        if last:
            await real.enqueue(last.popleft())
        last.append(jobs)
        return [Enqueued(job.id, True) for job in jobs]

    return enqueue


def _lie_about_durability(backend: Backend) -> Backend:
    traits = backend.broker.traits
    lie = replace(traits, durability="disk" if traits.durability == "process" else "process")
    return replace(backend, broker=TwistedBroker(backend.broker, traits=lie))


async def _drop_the_last(real: Broker, jobs: Sequence[Job]) -> Sequence[Enqueued]:
    return [*await real.enqueue(jobs[:-1]), *(Enqueued(job.id, True) for job in jobs[-1:])]


async def _answer_backwards(real: Broker, jobs: Sequence[Job]) -> Sequence[Enqueued]:
    return list(await real.enqueue(jobs))[::-1]


async def _refuse_all(real: Broker, jobs: Sequence[Job]) -> Sequence[Enqueued]:
    for job in jobs:
        if len(job.body) > real.traits.max_size:
            return [Enqueued(job.id, False, (await real.enqueue([job]))[0].error) for job in jobs]
    return await real.enqueue(jobs)


async def _add_anyway(real: Broker, jobs: Sequence[Job]) -> Sequence[Enqueued]:
    answers: list[Enqueued] = []
    for job in jobs:
        (answer,) = await real.enqueue([job])
        if not answer.added:
            await real.enqueue([replace(job, id=f"{job.id}-again")])
        answers.append(Enqueued(job.id, True))
    return answers


def _one_key_everywhere() -> Enqueue:
    held: set[str] = set()

    async def enqueue(real: Broker, jobs: Sequence[Job]) -> Sequence[Enqueued]:
        answers: list[Enqueued] = []
        for job in jobs:
            if job.unique in held:
                answers.append(Enqueued("another queue's", False))
            else:
                answers += await real.enqueue([job])
                held.update([job.unique] if job.unique else [])
        return answers

    return enqueue


async def _one_too_many(
    real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float
) -> Sequence[Delivery]:
    return await real.fetch(queues, limit + 1, lease=lease, wait=wait)


def _hand_out_twice() -> Fetch:
    last: list[Delivery] = []

    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        again = last[:1]
        last[:] = await real.fetch(queues, limit, lease=lease, wait=wait)
        return [*last, *again]

    return fetch


def _lease_of(change: Callable[[float], float]) -> Fetch:
    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        return await real.fetch(queues, limit, lease=change(lease), wait=wait)

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

    return _verbs(backend, fetch=fetch, settle=settle)


def _receipt_is_the_id(backend: Backend, latest: dict[str, str]) -> Backend:
    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        taken = await real.fetch(queues, limit, lease=lease, wait=wait)
        latest.update((delivery.job.id, delivery.receipt) for delivery in taken)
        return [replace(delivery, receipt=delivery.job.id) for delivery in taken]

    async def settle(real: Broker, settlements: Sequence[Settlement]) -> Sequence[bool]:
        return await real.settle([replace(s, receipt=latest.get(s.receipt, s.receipt)) for s in settlements])

    async def extend(real: Broker, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await real.extend([latest.get(receipt, receipt) for receipt in receipts], lease)

    return _verbs(backend, fetch=fetch, settle=settle, extend=extend)


async def _backwards(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
    return list(await real.fetch(queues, limit, lease=lease, wait=wait))[::-1]


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


async def _bools_backwards(real: Broker, settlements: Sequence[Settlement]) -> Sequence[bool]:
    return list(await real.settle(settlements))[::-1]


async def _always_true(real: Broker, settlements: Sequence[Settlement]) -> Sequence[bool]:
    return [True for _ in await real.settle(settlements)]


def _extend_by(change: Callable[[float], float]) -> Extend:
    async def extend(real: Broker, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
        return await real.extend(receipts, change(lease))

    return extend


async def _extend_nothing(_: Broker, receipts: Sequence[str], __: float) -> Sequence[Lease]:
    return [Lease.HELD for _ in receipts]


async def _extend_untold(real: Broker, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
    answers = await real.extend(receipts, lease)
    return [Lease.HELD if answer is Lease.CANCELLED else answer for answer in answers]


def _idle_extender(backend: Backend) -> Backend:
    @asynccontextmanager
    async def extender() -> AsyncGenerator[Extender]:
        yield TwistedBroker(backend.broker, extend=_extend_nothing)

    return replace(backend, extender=extender)


async def _bare_errors(real: Broker, jobs: Sequence[Job]) -> Sequence[Enqueued]:
    try:
        return await real.enqueue(jobs)
    except BrokerError as error:
        raise OSError("a driver's own error") from error


async def _swallow_errors(real: Broker, settlements: Sequence[Settlement]) -> Sequence[bool]:
    try:
        return await real.settle(settlements)
    except BrokerError:
        return [False for _ in settlements]


def _slow_clock() -> float:
    return time.time() - 3600


def _one_at_a_time() -> Fetch:
    busy: set[str] = set()

    async def fetch(real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float) -> Sequence[Delivery]:
        if busy:
            raise BrokerUnavailable("another call is under way")
        busy.add("fetch")
        try:
            return await real.fetch(queues, limit, lease=lease, wait=wait)
        finally:
            busy.clear()

    return fetch


async def _wait_for_ever(
    real: Broker, queues: Sequence[str], limit: int, lease: float, wait: float
) -> Sequence[Delivery]:
    taken = await real.fetch(queues, limit, lease=lease, wait=0)
    if not taken:
        await anyio.sleep(wait)
    return taken
