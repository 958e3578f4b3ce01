"""Brokers whose ``enqueue`` breaks C-E1 to C-E5."""

from collections import deque
from collections.abc import Sequence

from msgspec.structs import replace

from taskq.broker import Backend, Broker
from taskq.job import Enqueued, Job
from taskq.testing.mutant import Change, Enqueue, Mutant, TwistedBroker, jobs, verbs


def enqueue_mutants() -> list[Mutant]:
    """One mutant at least for each of C-E1 to C-E5."""
    changes: list[tuple[str, str, Change]] = [
        (
            "enqueue answers before the jobs are stored",
            "test_c_e1_an_enqueued_job_is_there_for_every_connection",
            lambda backend: verbs(enqueue=_lazily())(backend),
        ),
        ("durability is a lie", "test_c_e1_a_restart_spares_what_the_traits_promise", _lie_about_durability),
        ("enqueue drops the last job", "test_c_e2_there_is_one_answer_per_job_in_order", verbs(enqueue=_drop_the_last)),
        (
            "answers come in any order",
            "test_c_e2_there_is_one_answer_per_job_in_order",
            verbs(enqueue=_answer_backwards),
        ),
        (
            "a refused job takes the others with it",
            "test_c_e2_an_oversize_job_is_refused_alone",
            verbs(enqueue=_refuse_all),
        ),
        ("a live id is added again", "test_c_e3_a_live_id_is_not_added_again", verbs(enqueue=_add_anyway)),
        ("a dead letter's id is added again", "test_c_e3_a_dead_letter_holds_its_id", verbs(enqueue=_add_anyway)),
        (
            "an id is added twice in a call",
            "test_c_e3_an_id_given_twice_in_one_call_is_added_once",
            verbs(enqueue=_add_anyway),
        ),
        ("keys are ignored", "test_c_e4_a_held_key_answers_its_holder", jobs(lambda job: replace(job, unique=None))),
        (
            "keys are checked outside the transaction",
            "test_c_e4_of_racing_callers_one_gets_the_key",
            jobs(lambda job: replace(job, unique=None)),
        ),
        (
            "keys of all queues are one",
            "test_c_e4_a_key_is_held_by_its_queue_alone",
            lambda backend: verbs(enqueue=_one_key_everywhere())(backend),
        ),
        (
            "raise is taken for return",
            "test_c_e4_raise_answers_a_conflict_with_its_holder",
            jobs(lambda job: replace(job, on_conflict="return")),
        ),
        (
            "replace is taken for return",
            "test_c_e4_replace_gives_the_waiting_holder_the_new_call",
            jobs(lambda job: replace(job, on_conflict="return")),
        ),
        (
            "replace keeps the due moment",
            "test_c_e4_replace_can_put_the_holder_off",
            jobs(lambda job: replace(job, delay=0) if job.on_conflict == "replace" else job),
        ),
        (
            "a leased holder is not told from a waiting one",
            "test_c_e4_replace_refuses_a_leased_holder",
            jobs(lambda job: replace(job, on_conflict="return")),
        ),
        (
            "start is taken for end",
            "test_c_e4_until_start_frees_the_key_at_the_first_fetch",
            jobs(lambda job: replace(job, unique_until="end")),
        ),
        (
            "end is taken for start",
            "test_c_e4_until_end_holds_the_key_over_start_and_nack",
            jobs(lambda job: replace(job, unique_until="start")),
        ),
        (
            "success is taken for end",
            "test_c_e4_until_success_a_dead_letter_holds_the_key",
            jobs(lambda job: replace(job, unique_until="end")),
        ),
        (
            "end is taken for success",
            "test_c_e4_until_end_a_dead_letter_frees_the_key",
            jobs(lambda job: replace(job, unique_until="success")),
        ),
        (
            "seconds are taken for end",
            "test_c_e4_until_seconds_frees_the_key_by_time",
            jobs(lambda job: replace(job, unique_until="end")),
        ),
        (
            "a repeated call adds its jobs twice",
            "test_c_e5_a_repeated_call_adds_nothing_twice",
            verbs(enqueue=_add_anyway),
        ),
        (
            "a job is added by halves",
            "test_c_e5_a_cancelled_call_may_be_repeated",
            jobs(lambda job: replace(job, body=b"")),
        ),
    ]
    return [Mutant(name=name, test=test, change=change) for name, test, change in changes]


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
