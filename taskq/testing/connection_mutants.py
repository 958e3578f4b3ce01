"""Brokers that break C-A1 to C-A4."""

import time
from collections.abc import Sequence
from math import inf

import anyio
from msgspec.structs import replace

from taskq.broker import Broker
from taskq.errors import BrokerError, BrokerUnavailable
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, Settlement
from taskq.testing.deployment import LONG
from taskq.testing.mutant import Change, Fetch, Mutant, jobs, settlements, verbs


def connection_mutants() -> list[Mutant]:
    """One mutant at least for each of C-A1 to C-A4."""
    changes: list[tuple[str, str, Change]] = [
        ("driver errors leave bare", "test_c_a1_a_closed_connection_says_so_in_our_words", verbs(enqueue=_bare_errors)),
        (
            "a severed call answers nothing",
            "test_c_a1_a_driver_error_leaves_as_ours_with_its_cause",
            verbs(settle=_swallow_errors),
        ),
        (
            "due moments are the caller's",
            "test_c_a2_due_moments_are_the_backends",
            jobs(
                lambda job: job if job.run_at is None else replace(job, run_at=None, delay=job.run_at - _slow_clock())
            ),
        ),
        (
            "one caller at a time",
            "test_c_a3_any_number_of_tasks_may_call_at_once",
            lambda backend: verbs(fetch=_one_at_a_time())(backend),
        ),
        (
            "waiting fetches outlive the connection",
            "test_c_a3_leaving_the_connection_ends_waiting_fetches",
            verbs(fetch=_wait_for_ever),
        ),
        (
            "waiting fetches sleep on",
            "test_c_a3_a_fetch_that_is_roused_answers_at_once",
            lambda backend: replace(backend, rouse=lambda: None),
        ),
        (
            "outcomes stay behind",
            "test_c_a4_nothing_outlives_its_job",
            settlements(lambda s: replace(s, outcome=b"left", keep=LONG) if isinstance(s, Ack) else s),
        ),
        (
            "dead letters stay behind",
            "test_c_a4_nothing_outlives_its_job",
            settlements(lambda s: replace(s, keep=inf) if isinstance(s, DeadLetter) else s),
        ),
    ]
    return [Mutant(name=name, test=test, change=change) for name, test, change in changes]


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
