"""The checker finds what it is there for: in a history without faults nothing, and each planted one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from taskq.job import Ack, DeadLetter, Nack
from taskq.testing.history import (
    Answered,
    Asking,
    Effect,
    Ended,
    Extended,
    Fetched,
    Happened,
    Invoked,
    Journal,
    Killed,
    Line,
    Settled,
    Settling,
    Started,
    how,
    read,
    read_all,
)
from taskq.testing.verdict import Verdict, check

LEASE = 2.0

Moments = Sequence[tuple[float, Happened]]


def enqueued(*jobs: str) -> Moments:
    return [(0.0, Invoked(jobs)), (0.1, Answered(jobs, "ok"))]


def fetched(at: float, job: str = "a", fence: int = 1, losses: int = 0, attempt: int = 1) -> Moments:
    return [(at, Fetched(job, fence, attempt, losses, at - 0.01))]


def began(at: float, job: str = "a", fence: int = 1, losses: int = 0, attempt: int = 1) -> Moments:
    return [*fetched(at, job, fence, losses, attempt), (at, Started(job, fence))]


def acked(at: float, job: str = "a", fence: int = 1, accepted: bool = True) -> Moments:
    return [(at, Settling(job, fence, "ack")), (at, Settled(job, fence, accepted))]


def ended(at: float, job: str = "a", fence: int = 1) -> Moments:
    return [(at, Effect(job, fence)), (at, Ended(job, fence)), *acked(at, job, fence)]


def histories(**processes: Moments) -> Mapping[str, list[Line]]:
    return {name: [Line(at, at, what) for at, what in moments] for name, moments in processes.items()}


def judged(**processes: Moments) -> Verdict:
    return check(histories(**processes), lease=LEASE)


def broken(verdict: Verdict) -> dict[str, int]:
    return {promise: len(found) for promise, found in verdict.offences.items() if found}


def test_a_history_without_faults_holds() -> None:
    verdict = judged(
        client=enqueued("a", "b"), one=[*began(1.0), *ended(1.5)], two=[*began(1.0, "b"), *ended(1.5, "b")]
    )
    assert verdict.holds
    assert (verdict.counts["acknowledged"], verdict.counts["completed"], verdict.counts["deliveries"]) == (2, 2, 2)


def test_a_kill_explains_a_second_run_after_the_lease() -> None:
    verdict = judged(
        client=enqueued("a"),
        one=[*began(1.0), (1.2, Effect("a", 1)), (1.3, Killed("effect done"))],
        two=[*began(3.1, fence=2, losses=1), *ended(3.2, fence=2)],
    )
    assert verdict.holds
    assert verdict.causes == {"killed": 1}
    assert verdict.kills == {"effect done": 1}
    assert verdict.counts["effects done twice or more"] == 1
    assert verdict.restarts == pytest.approx([1.8])


def test_a_planted_loss_is_found() -> None:
    verdict = judged(client=enqueued("a", "b"), one=[*began(1.0), *ended(1.5)])
    assert broken(verdict) == {"lost": 1}
    assert "b, never delivered" in str(verdict)


def test_a_run_that_began_and_was_given_up_is_a_loss() -> None:
    verdict = judged(client=enqueued("a"), one=[*began(1.0), (1.1, Ended("a", 1, returned=False)), *acked(1.2)])
    assert broken(verdict) == {"lost": 1}


def test_a_planted_phantom_is_found() -> None:
    assert broken(judged(client=enqueued("a"), one=[*began(1.0), *ended(1.5), *began(1.0, "x"), *ended(1.5, "x")])) == {
        "phantom": 1
    }


def test_a_planted_duplicate_after_an_accepted_ack_is_found() -> None:
    verdict = judged(
        client=enqueued("a"), one=[*began(1.0), *ended(1.5)], two=[*began(9.0, fence=2), *ended(9.5, fence=2)]
    )
    assert broken(verdict) == {"unexplained": 1, "stale": 1, "misnumbered": 1}
    assert "fence 2 by two" in str(verdict)


def test_a_kill_does_not_explain_a_duplicate_of_a_job_that_was_acked_before() -> None:
    verdict = judged(
        client=enqueued("a"),
        one=[*began(1.0), *ended(1.5), (1.6, Killed("settled"))],
        two=[*began(9.0, fence=2, losses=1), *ended(9.5, fence=2)],
    )
    assert broken(verdict) == {"unexplained": 1, "stale": 1}


def test_a_planted_overlap_is_found() -> None:
    verdict = judged(
        client=enqueued("a"),
        one=[*began(1.0), (2.4, Extended([("a", 1)], 2.4)), (5.0, Ended("a", 1)), *acked(5.0, accepted=False)],
        two=[*began(3.5, fence=2, losses=1), *ended(4.0, fence=2)],
    )
    assert broken(verdict) == {"unexplained": 1, "overlapping": 1}


def test_a_run_beside_one_that_was_cut_off_for_a_lease_is_explained() -> None:
    verdict = judged(
        client=enqueued("a"),
        one=[*began(1.0), (5.0, Ended("a", 1)), *acked(5.0, accepted=False)],
        two=[*began(3.5, fence=2, losses=1), *ended(4.0, fence=2)],
    )
    assert verdict.holds
    assert verdict.causes == {"lease over": 1}


@pytest.mark.parametrize(
    ("tries", "losses", "offences"), [(1, 0, {"misnumbered": 1}), (1, 1, {}), (2, 0, {}), (2, 1, {})]
)
def test_of_an_end_asked_for_again_nobody_knows_whether_the_first_try_counted(
    tries: int, losses: int, offences: dict[str, int]
) -> None:
    asked: Moments = [(1.5 + number, Settling("a", 1, "uncounted nack")) for number in range(tries)]
    verdict = judged(
        client=enqueued("a"),
        one=[*began(1.0), (1.5, Ended("a", 1, returned=False)), *asked, (4.0, Settled("a", 1, accepted=False))],
        two=[*began(9.0, fence=2, losses=losses), *ended(9.5, fence=2)],
    )
    assert broken(verdict) == offences


def test_a_planted_late_ack_that_was_accepted_is_found() -> None:
    verdict = judged(
        client=enqueued("a"),
        one=[*began(1.0), (3.6, Ended("a", 1)), *acked(3.6)],
        two=[*began(3.5, fence=2, losses=1), (4.0, Ended("a", 2)), *acked(4.0, fence=2, accepted=False)],
    )
    assert broken(verdict) == {"stale": 1}


@pytest.mark.parametrize(("losses", "attempt"), [(0, 1), (2, 1), (1, 2)])
def test_planted_wrong_losses_and_attempts_are_found(losses: int, attempt: int) -> None:
    told = histories(
        client=enqueued("a"),
        one=[*began(1.0), (1.2, Killed("mid-run"))],
        two=[*began(3.5, fence=2, losses=losses, attempt=attempt), *ended(4.0, fence=2)],
    )
    assert broken(check(told, lease=LEASE)) == {"misnumbered": 1}
    assert check(told, lease=LEASE, exact_attempts=False).holds


def test_one_fence_for_two_deliveries_is_found() -> None:
    verdict = judged(client=enqueued("a"), one=[*began(1.0), *ended(1.1)], two=fetched(1.2))
    assert broken(verdict) == {"misnumbered": 1}


def test_a_planted_late_restart_is_found() -> None:
    verdict = judged(
        client=enqueued("a"),
        one=[*began(1.0), (1.2, Killed("mid-run"))],
        two=[(0.5, Asking()), *began(8.3, fence=2, losses=1), *ended(8.4, fence=2)],
    )
    assert broken(verdict) == {"late": 1}
    assert verdict.waits == pytest.approx([5.1])


def test_only_time_with_a_worker_makes_a_restart_late() -> None:
    verdict = judged(
        client=enqueued("a"),
        one=[(0.5, Asking()), *began(1.0), (1.2, Killed("mid-run"))],
        two=[(2.0, Asking()), (3.5, Killed("at random"))],
        three=[(2.5, Asking()), (3.8, Killed("at random"))],
        four=[(8.0, Asking()), *began(8.3, fence=2, losses=1), *ended(8.4, fence=2)],
    )
    assert verdict.holds
    assert verdict.restarts == pytest.approx([7.1])
    assert verdict.waits == pytest.approx([0.3 + 0.3 + 0.3])


def test_an_interrupted_job_that_never_starts_again_is_late_and_lost() -> None:
    verdict = judged(client=[*enqueued("a"), (1.2, Killed("at random", "one"))], one=fetched(1.0))
    assert broken(verdict) == {"lost": 1, "late": 1}


def test_a_job_whose_ack_may_have_gone_through_before_the_kill_need_not_start_again() -> None:
    verdict = judged(
        client=enqueued("a"),
        one=[*began(1.0), (1.1, Ended("a", 1)), (1.2, Settling("a", 1, "ack")), (1.2, Killed("settling"))],
    )
    assert verdict.holds


def test_a_second_kill_before_the_next_start_counts_from_itself() -> None:
    verdict = judged(
        client=enqueued("a"),
        one=[*began(1.0), (1.2, Killed("mid-run"))],
        two=[*fetched(6.0, fence=2, losses=1), (6.1, Killed("fetched"))],
        three=[*began(12.0, fence=3, losses=2), *ended(12.1, fence=3)],
    )
    assert verdict.holds
    assert verdict.restarts == pytest.approx([4.8, 5.9])


def test_a_job_that_was_set_aside_is_not_lost() -> None:
    aside: Moments = [(2.0, Settling("a", 1, "dead-letter")), (2.0, Settled("a", 1, accepted=True))]
    verdict = judged(client=enqueued("a"), one=[*fetched(1.0), *aside])
    assert verdict.holds
    assert verdict.counts["set aside"] == 1


def test_an_enqueue_of_unknown_end_may_have_happened_or_not() -> None:
    unknown: Moments = [(0.0, Invoked(["a", "b"])), (0.1, Answered(["a", "b"], "unknown"))]
    verdict = judged(client=unknown, one=[*began(1.0), *ended(1.5)])
    assert verdict.holds
    assert verdict.counts["recovered"] == 1


def test_what_was_given_back_may_run_again_at_once() -> None:
    back: Moments = [(1.2, Settling("a", 1, "uncounted nack")), (1.2, Settled("a", 1, accepted=True))]
    again: Moments = [(1.4, Settling("a", 2, "nack")), (1.4, Settled("a", 2, accepted=True))]
    verdict = judged(
        client=enqueued("a"),
        one=[*fetched(1.0), *back],
        two=[*began(1.3, fence=2), (1.35, Ended("a", 2, returned=False)), *again],
        three=[*began(1.5, fence=3, attempt=2), *ended(1.6, fence=3)],
    )
    assert verdict.holds
    assert verdict.causes == {"given back": 2}


def test_a_journal_can_be_read_after_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "one.journal")
    happened: list[Happened] = [
        Invoked(["a"]), Answered(["a"], "ok"), Asking(), Fetched("a", 1, 1, 0, 0.5), Extended([("a", 1)], 0.7),
        Started("a", 1), Effect("a", 1), Ended("a", 1), Settling("a", 1, "ack"), Settled("a", 1, accepted=True),
        Killed("settled"),
    ]  # fmt: skip
    journal.write(*happened)
    journal.close()
    with (tmp_path / "one.journal").open("ab") as file:
        file.write(b"[1.0,2.0,{")
    assert [line.what for line in read(tmp_path / "one.journal")] == happened
    assert list(read_all(tmp_path)) == ["one"]


def test_every_settlement_has_a_kind() -> None:
    kinds = [how(one) for one in (Ack("r"), Nack("r", 0.0), Nack("r", 0.0, counted=False), DeadLetter("r", b""))]
    assert kinds == ["ack", "nack", "uncounted nack", "dead-letter"]
