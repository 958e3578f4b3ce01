"""Brokers whose ``settle`` or ``extend`` breaks C-S1 to C-X2."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf

from msgspec.structs import replace

from taskq.broker import Backend, Broker, Extender
from taskq.job import Ack, DeadLetter, Lease, Nack, Settlement
from taskq.testing.deployment import LONG
from taskq.testing.mutant import Change, Extend, Mutant, TwistedBroker, deliveries, settlements, verbs


def settle_mutants() -> list[Mutant]:
    """One mutant at least for each of C-S1 to C-X2."""
    changes: list[tuple[str, str, Change]] = [
        (
            "settle answers in any order",
            "test_c_s1_there_is_one_answer_per_settlement_in_order",
            verbs(settle=_bools_backwards),
        ),
        (
            "settle answers True for void receipts",
            "test_c_s1_a_void_receipt_changes_nothing",
            verbs(settle=_always_true),
        ),
        (
            "an ack leaves the job",
            "test_c_s2_an_ack_removes_the_job",
            settlements(lambda s: Nack(s.receipt, 0.1) if isinstance(s, Ack) else s),
        ),
        (
            "outcomes are not kept",
            "test_c_s2_an_outcome_can_be_read_by_anyone",
            settlements(lambda s: replace(s, outcome=None) if isinstance(s, Ack) else s),
        ),
        (
            "outcomes are kept for ever",
            "test_c_s2_an_outcome_is_kept_as_long_as_said",
            settlements(lambda s: replace(s, keep=LONG) if isinstance(s, Ack) else s),
        ),
        (
            "a nack's delay is ignored",
            "test_c_s3_a_nack_makes_the_job_due_after_its_time",
            settlements(lambda s: replace(s, after=0.0) if isinstance(s, Nack) else s),
        ),
        (
            "an uncounted nack counts",
            "test_c_s3_an_uncounted_nack_leaves_the_attempt",
            settlements(lambda s: replace(s, counted=True) if isinstance(s, Nack) else s),
        ),
        (
            "no nack counts",
            "test_c_s3_a_counted_nack_counts",
            settlements(lambda s: replace(s, counted=False) if isinstance(s, Nack) else s),
        ),
        (
            "errors are dropped",
            "test_c_s3_an_error_is_kept_until_the_next_one",
            settlements(lambda s: replace(s, error=None) if isinstance(s, Nack) else s),
        ),
        (
            "a dead letter is only put off",
            "test_c_s4_a_dead_letter_leaves_the_queue",
            settlements(lambda s: Nack(s.receipt, 0.1) if isinstance(s, DeadLetter) else s),
        ),
        (
            "a dead letter is thrown away",
            "test_c_s4_a_dead_letter_is_kept_with_its_outcome",
            settlements(lambda s: Ack(s.receipt, s.outcome, LONG) if isinstance(s, DeadLetter) else s),
        ),
        (
            "dead letters never lapse",
            "test_c_s4_a_dead_letter_lapses_when_said",
            settlements(lambda s: replace(s, keep=inf) if isinstance(s, DeadLetter) else s),
        ),
        ("a receipt settles again and again", "test_c_s5_a_receipt_settles_once", verbs(settle=_always_true)),
        (
            "a receipt settles twice in a call",
            "test_c_s5_a_receipt_settles_once_within_a_call",
            verbs(settle=_always_true),
        ),
        ("of racing settlements all count", "test_c_s5_of_racing_settlements_one_counts", verbs(settle=_always_true)),
        (
            "extend adds to the lease",
            "test_c_x1_extending_counts_from_now",
            verbs(extend=_extend_by(lambda lease: lease + LONG)),
        ),
        ("extend extends nothing", "test_c_x1_an_extended_lease_outlives_its_first_end", verbs(extend=_extend_nothing)),
        (
            "extend answers HELD for all",
            "test_c_x1_there_is_one_answer_per_receipt_in_order",
            verbs(extend=_extend_nothing),
        ),
        (
            "extend lies after a lapse",
            "test_c_x1_what_extend_answers_after_a_lapse_is_true",
            verbs(extend=_extend_nothing),
        ),
        ("the extender extends nothing", "test_c_x1_another_threads_loop_can_extend", _idle_extender),
        (
            "extend forgets to tell of a cancel",
            "test_c_x1_extend_tells_that_the_job_is_cancelled",
            verbs(extend=_extend_untold),
        ),
        (
            "a delivery forgets that it is cancelled",
            "test_c_x2_a_cancelled_waiting_job_is_due_and_says_so",
            deliveries(lambda d: replace(d, cancelled=False)),
        ),
    ]
    return [Mutant(name=name, test=test, change=change) for name, test, change in changes]


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


def _idle_extender(backend: Backend) -> Backend:
    @asynccontextmanager
    async def extender() -> AsyncGenerator[Extender]:
        yield TwistedBroker(backend.broker, extend=_extend_nothing)

    return replace(backend, extender=extender)


async def _extend_untold(real: Broker, receipts: Sequence[str], lease: float) -> Sequence[Lease]:
    answers = await real.extend(receipts, lease)
    return [Lease.HELD if answer is Lease.CANCELLED else answer for answer in answers]
