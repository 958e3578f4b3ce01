"""The table that is the heart: one test a row, then its precedence and what it leaves behind."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import DecodeError, Discard, HandedBack, JobTimeout, LimitExceeded, RetryIn, Snooze
from taskq.following import FollowUp
from taskq.job import Ack, DeadLetter, Delivery, Job, Nack
from taskq.outcome import (
    PARKED_FOR,
    Cancelled,
    Decision,
    Expired,
    Interrupted,
    Limited,
    Lost,
    NotDue,
    Outcome,
    Poisonous,
    Policy,
    Raised,
    Returned,
    Undecodable,
    Unknown,
    decide,
    screen,
)
from taskq.report import (
    HISTORY_LIMIT,
    MESSAGE_LIMIT,
    Ended,
    History,
    LastSeen,
    Uncounted,
    history_of,
    read_outcome,
    report,
)
from taskq.retry import Retry, steps

DELIVERY = Delivery(
    job=Job(id="j", task="mail.send", body=b"", queue="mail"),
    attempt=1,
    losses=0,
    fence=1,
    receipt="r",
    now=1000.0,
    due=1000.0,
)
POLICY = Policy(retry=Retry(3, steps(7)), keep=60.0, keep_dead=500.0)
AT_MOST_ONCE = msgspec.structs.replace(POLICY, guarantee="at_most_once")


def delivery(**changes: Any) -> Delivery:
    return msgspec.structs.replace(DELIVERY, **changes)


def uncounted(nack: Nack) -> list[Uncounted]:
    return history_of(delivery(error=nack.error)).uncounted


def decided(outcome: Outcome, on: Delivery = DELIVERY, policy: Policy = POLICY) -> Decision:
    return decide(outcome, on, policy, chance=0.5)


def acked(decision: Decision) -> Ended:
    assert isinstance(decision.settlement, Ack)
    assert decision.settlement.receipt == "r"
    assert decision.settlement.keep == 60.0
    assert decision.settlement.outcome is not None
    ended = read_outcome(decision.settlement.outcome)
    assert ended.end == decision.end
    return ended


def dead(decision: Decision) -> Ended:
    assert isinstance(decision.settlement, DeadLetter)
    assert decision.settlement.receipt == "r"
    assert decision.settlement.keep == 500.0
    ended = read_outcome(decision.settlement.outcome)
    assert ended.end == decision.end
    return ended


def again(decision: Decision, after: float, *, counted: bool) -> Nack:
    assert decision.end is None
    nack = decision.settlement
    assert isinstance(nack, Nack)
    assert (nack.receipt, nack.after, nack.counted) == ("r", after, counted)
    return nack


# One row each


def test_returned_acks_with_the_result() -> None:
    ended = acked(decided(Returned(b'{"sent":3}')))

    assert ended.end == "returned"
    assert bytes(ended.value) == b'{"sent":3}'


def test_returned_without_a_value_acks_with_null() -> None:
    assert bytes(acked(decided(Returned())).value) == b"null"


def test_raised_with_attempts_left_waits_as_the_curve_says() -> None:
    again(decided(Raised(ValueError("no"))), 7.0, counted=True)


def test_raised_without_attempts_left_is_dead() -> None:
    ended = dead(decided(Raised(ValueError("no")), delivery(attempt=3)))

    assert ended.end == "failed"
    assert [(error.type, error.message, error.attempt) for error in ended.errors] == [("ValueError", "no", 3)]


def test_raised_and_not_worth_an_attempt_is_dead() -> None:
    policy = msgspec.structs.replace(POLICY, retry=Retry(3, on=(OSError,)))

    assert dead(decided(Raised(ValueError()), policy=policy)).end == "failed"


def test_raised_beyond_within_is_dead() -> None:
    policy = msgspec.structs.replace(POLICY, retry=Retry(99, steps(7), within=20.0))
    first = again(decided(Raised(ValueError()), policy=policy), 7.0, counted=True)
    later = delivery(attempt=2, now=1013.0, error=first.error)
    too_late = delivery(attempt=2, now=1013.1, error=first.error)

    again(decided(Raised(ValueError()), later, policy), 7.0, counted=True)
    assert dead(decided(Raised(ValueError()), too_late, policy)).end == "failed"


def test_retry_in_with_attempts_left_waits_as_it_says() -> None:
    again(decided(Raised(RetryIn(90))), 90.0, counted=True)


def test_retry_in_without_attempts_left_is_dead() -> None:
    assert dead(decided(Raised(RetryIn(90)), delivery(attempt=3))).end == "failed"


def test_snooze_waits_does_not_count_and_leaves_its_reason() -> None:
    nack = again(decided(Raised(Snooze(5, "no paper")), delivery(attempt=3)), 5.0, counted=False)

    assert uncounted(nack) == [Uncounted("no paper", 3, 1000.0)]


def test_a_run_that_was_cut_off_leaves_why_and_one_that_has_not_begun_leaves_nothing() -> None:
    nack = again(decided(Interrupted()), 0.0, counted=False)
    assert uncounted(nack) == [Uncounted("the worker is shutting down", 1, 1000.0)]
    nack = again(decided(Interrupted(reason="the broker is away"), delivery(error=nack.error)), 0.0, counted=False)
    assert [run.reason for run in uncounted(nack)] == ["the worker is shutting down", "the broker is away"]
    assert again(decided(Interrupted(begun=False)), 0.0, counted=False).error is None


def test_what_is_left_of_runs_that_did_not_count_is_bounded_and_redacted() -> None:
    def redact(text: str) -> str:
        return text.replace("secret", "***")

    policy = msgspec.structs.replace(POLICY, redact=redact)
    error: bytes | None = None
    for _ in range(HISTORY_LIMIT + 3):
        error = again(
            decided(Raised(Snooze(1, "secret" * 99)), delivery(error=error), policy), 1.0, counted=False
        ).error
    runs = history_of(delivery(error=error)).uncounted
    assert len(runs) == HISTORY_LIMIT
    assert {len(run.reason) for run in runs} == {len("***" * 99)}


def test_an_end_tells_of_every_run_before_it() -> None:
    past = again(decided(Raised(Snooze(1, "no paper"))), 1.0, counted=False).error
    past = again(decided(Raised(OSError("jam")), delivery(error=past)), 7.0, counted=True).error
    last = delivery(attempt=2, losses=1, error=past)
    for ended in (acked(decided(Returned(b"1"), last)), dead(decided(Poisonous(), last))):
        assert (ended.attempt, ended.losses) == (2, 1)
        assert [run.reason for run in ended.uncounted] == ["no paper"]
        assert [error.message for error in ended.errors] == ["jam"]


def test_every_attempt_tells_which_code_ran_it() -> None:
    def by(build: str) -> Policy:
        return msgspec.structs.replace(POLICY, build=build)

    past = again(decided(Raised(Snooze(1, "no paper")), policy=by("v1")), 1.0, counted=False).error
    past = again(decided(Raised(OSError("jam")), delivery(error=past), by("v2")), 7.0, counted=True).error
    last = delivery(attempt=3, error=past)
    ended = dead(decided(Raised(OSError("fire")), last, by("v3")))
    assert ([run.build for run in ended.uncounted], [run.build for run in ended.errors]) == (["v1"], ["v2", "v3"])
    assert ended.build == "v3"
    assert acked(decided(Returned(b"1"), last, by("v4"))).build == "v4"


def test_a_delivery_refused_by_a_limit_comes_back_for_its_turn_uncounted_and_forgets_nothing() -> None:
    before = msgspec.json.encode(History(failing_since=7.0))
    nack = again(decided(Limited(30.0, "limit:api"), delivery(error=before)), 30.0, counted=False)
    assert history_of(delivery(error=nack.error)) == History(failing_since=7.0, turn="limit:api")
    # Nothing of the handler has run, so at most once is kept.
    again(decided(Limited(30.0, "limit:api"), policy=AT_MOST_ONCE), 30.0, counted=False)


def test_a_turn_is_spent_by_the_run_that_it_let_begin() -> None:
    with_turn = delivery(error=msgspec.json.encode(History(failing_since=7.0, turn="limit:api")))
    for error in (Snooze(5), LimitExceeded("full", 5)):
        nack = again(decided(Raised(error), with_turn), 5.0, counted=False)
        history = history_of(delivery(error=nack.error))
        assert (history.failing_since, history.turn) == (7.0, None)
    assert (
        history_of(delivery(error=again(decided(Raised(ValueError()), with_turn), 7.0, counted=True).error)).turn
        is None
    )
    # What did not begin has its turn still.
    assert again(decided(Interrupted(begun=False), with_turn), 0.0, counted=False).error is None


def test_a_handler_that_finds_a_limit_exhausted_runs_again_uncounted_but_never_twice_where_once_is_promised() -> None:
    decision = decided(Raised(LimitExceeded("its turn comes later", 12.0)), delivery(attempt=3))
    again(decision, 12.0, counted=False)
    assert "its turn comes later" in decision.reason
    assert isinstance(decided(Raised(LimitExceeded("full", 1.0)), policy=AT_MOST_ONCE).settlement, DeadLetter)


def test_a_job_that_has_put_itself_off_too_often_fails_as_any_other() -> None:
    policy = msgspec.structs.replace(POLICY, retry=Retry(3, steps(7), snoozes=2))
    on = delivery()
    for error in (Snooze(5), LimitExceeded("full", 5)):
        on = delivery(error=again(decided(Raised(error), on, policy), 5.0, counted=False).error)
    # What taskq itself asks for is not the job's doing.
    on = delivery(
        error=again(decided(Raised(HandedBack(0, "the worker drains")), on, policy), 0.0, counted=False).error
    )
    for attempt in (1, 2):
        on = delivery(attempt=attempt, error=on.error)
        nack = again(decided(Raised(LimitExceeded("full", 5)), on, policy), 5.0, counted=True)
        on = delivery(attempt=attempt + 1, error=nack.error)
    ended = dead(decided(Raised(Snooze(5, "still no paper")), on, policy))
    assert [(error.type, error.attempt) for error in ended.errors] == [
        ("taskq.errors.LimitExceeded", 1),
        ("taskq.errors.LimitExceeded", 2),
        ("taskq.errors.Snooze", 3),
    ]
    assert [run.attempt for run in ended.uncounted] == [1, 1, 1]


def test_discard_acks_without_a_result() -> None:
    ended = acked(decided(Raised(Discard("nobody there"))))

    assert (ended.end, ended.reason, bytes(ended.value)) == ("discarded", "nobody there", b"null")


def test_a_time_out_counts_as_an_error_without_its_traceback() -> None:
    outcome = Raised(JobTimeout("ran past its time-out of 3 s"))
    nack = again(decided(outcome), 7.0, counted=True)
    ended = dead(decided(outcome, delivery(attempt=3, error=nack.error)))

    assert ended.errors[-1].type == "taskq.errors.JobTimeout"
    assert ended.errors[-1].traceback == ""


def test_lost_at_most_once_is_dead_without_running() -> None:
    on = delivery(losses=1)

    assert screen(on, AT_MOST_ONCE) == Lost()
    assert dead(decided(Lost(), on, AT_MOST_ONCE)).end == "lost"


def test_past_its_expiry_it_is_acked_as_expired() -> None:
    on = delivery(expires_at=999.9)

    assert screen(on, POLICY) == Expired()
    assert acked(decided(Expired(), on)).end == "expired"


def test_before_its_moment_it_waits_for_the_rest_and_does_not_count() -> None:
    early = delivery(due=2000.0, expires_at=2060.0)
    assert screen(early, POLICY) == NotDue()
    again(decided(NotDue(), early), 1000.0, counted=False)


def test_cancelled_by_a_user_is_acked_as_cancelled() -> None:
    on = delivery(cancelled=True)

    assert screen(on, POLICY) == Cancelled()
    assert acked(decided(Cancelled(), on)).end == "cancelled"


def test_an_unknown_task_waits_longer_and_longer_and_does_not_count() -> None:
    on, waits = DELIVERY, list[float]()
    for _ in range(12):
        nack = decided(Unknown(), on).settlement
        assert isinstance(nack, Nack)
        assert not nack.counted
        waits.append(nack.after)
        on = delivery(now=on.now + nack.after, error=nack.error)

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]


def test_a_task_unknown_for_a_day_is_dead_and_names_task_and_queue() -> None:
    nack = again(decided(Unknown()), 1.0, counted=False)
    almost = delivery(now=1000.0 + PARKED_FOR - 1, error=nack.error)
    a_day_later = delivery(now=1000.0 + PARKED_FOR, error=nack.error)

    again(decided(Unknown(), almost), 2.0, counted=False)
    ended = dead(decided(Unknown(), a_day_later))
    assert ended.end == "failed"
    assert "'mail.send'" in ended.reason
    assert "'mail'" in ended.reason


def test_a_body_that_does_not_decode_is_dead() -> None:
    ended = dead(decided(Undecodable(DecodeError("x: Expected `int`"))))

    assert ended.end == "failed"
    assert ended.errors[-1].message == "x: Expected `int`"


@pytest.mark.parametrize("changes", [{"losses": 3}, {"attempt": 4}])
def test_a_job_that_kills_workers_or_comes_beyond_its_attempts_is_quarantined(changes: dict[str, int]) -> None:
    on = delivery(**changes)

    assert screen(on, POLICY) == Poisonous()
    assert dead(decided(Poisonous(), on)).end == "quarantined"


@pytest.mark.parametrize("outcome", [Poisonous, Lost])
def test_what_is_known_of_the_worker_that_died_is_told_to_all(outcome: type[Poisonous | Lost]) -> None:
    def hide(text: str) -> str:
        return text.replace("secret", "…")

    seen = LastSeen(worker="w-1", host="h", pid=7, seconds=2.0, memory=3 << 20, beside=("mail",), stack="secret line")
    policy = msgspec.structs.replace(POLICY, on_dead=FollowUp("tell", "told", "death"), redact=hide)

    decision = decided(outcome(seen), delivery(losses=3), policy)
    ended = dead(decision)
    told = msgspec.json.decode(decision.effects[0].body)["args"]["death"]

    assert ended.worker == msgspec.structs.replace(seen, stack="… line")
    assert msgspec.convert(told["worker"], LastSeen) == ended.worker
    assert ended.reason.endswith("; w-1 (process 7 on h) had run it for 2.0 s in 3 MiB beside mail")
    assert decision.reason == told["reason"] == ended.reason


# At most once


@pytest.mark.parametrize("error", [ValueError("no"), RetryIn(5), Snooze(5)])
def test_what_runs_at_most_once_does_not_run_again(error: Exception) -> None:
    ended = dead(decided(Raised(error), policy=AT_MOST_ONCE))

    assert ended.end == "failed"
    assert "at most once" in ended.reason


def test_what_runs_at_most_once_and_was_interrupted_is_lost() -> None:
    assert dead(decided(Interrupted(), policy=AT_MOST_ONCE)).end == "lost"


def test_what_runs_at_most_once_can_return_and_discard() -> None:
    assert acked(decided(Returned(b"1"), policy=AT_MOST_ONCE)).end == "returned"
    assert acked(decided(Raised(Discard()), policy=AT_MOST_ONCE)).end == "discarded"


# Precedence


def test_nothing_speaks_against_an_ordinary_delivery() -> None:
    assert screen(delivery(losses=2, attempt=3, expires_at=1000.0), POLICY) is None


def test_cancelled_counts_before_lost_poisonous_and_expired() -> None:
    assert screen(delivery(cancelled=True, losses=9, attempt=9, expires_at=0.0), AT_MOST_ONCE) == Cancelled()


def test_lost_counts_before_poisonous_and_poisonous_before_expired() -> None:
    assert screen(delivery(losses=9, expires_at=0.0), AT_MOST_ONCE) == Lost()
    assert screen(delivery(losses=9, expires_at=0.0), POLICY) == Poisonous()


def test_what_the_handler_did_counts_before_what_is_true_of_the_delivery() -> None:
    on = delivery(cancelled=True, losses=9, expires_at=0.0)

    assert acked(decided(Returned(b"1"), on)).end == "returned"
    again(decided(Raised(ValueError()), on), 7.0, counted=True)


def test_the_hook_counts_before_the_lists_and_the_handlers_signal_before_the_hook() -> None:
    retry = Retry(3, dead_on=(KeyError,), decide=lambda _error, _attempt: RetryIn(50))
    policy = msgspec.structs.replace(POLICY, retry=retry)

    again(decided(Raised(KeyError()), policy=policy), 50.0, counted=True)
    again(decided(Raised(Snooze(1)), policy=policy), 1.0, counted=False)


def test_what_the_hook_decided_leaves_the_real_error_in_the_history() -> None:
    policy = msgspec.structs.replace(POLICY, retry=Retry(2, decide=lambda _error, _attempt: RetryIn(50)))
    nack = again(decided(Raised(OSError("rate limit")), policy=policy), 50.0, counted=True)
    ended = dead(decided(Raised(OSError("rate limit")), delivery(attempt=2, error=nack.error), policy))

    assert [(error.type, error.message) for error in ended.errors] == [("OSError", "rate limit")] * 2


def test_an_error_on_the_discard_list_is_the_reason_of_the_end() -> None:
    policy = msgspec.structs.replace(POLICY, retry=Retry(3, discard_on=(LookupError,)))
    ended = acked(decided(Raised(LookupError("no such user")), policy=policy))

    assert (ended.end, ended.reason) == ("discarded", "LookupError: no such user")


# What is left behind


def test_a_task_that_keeps_nothing_leaves_nothing_but_its_dead() -> None:
    policy = msgspec.structs.replace(POLICY, keep=0.0)

    assert decided(Returned(b"1"), policy=policy).settlement == Ack("r")
    assert dead(decided(Raised(ValueError()), delivery(attempt=3), policy)).end == "failed"


def failed_times(count: int) -> History:
    on, policy = DELIVERY, msgspec.structs.replace(POLICY, retry=Retry(99, steps(7)))
    for attempt in range(1, count + 1):
        error = _raised(ValueError(f"number {attempt}"))
        nack = decided(Raised(error), delivery(attempt=attempt, now=on.now + 7.0, error=on.error), policy).settlement
        assert isinstance(nack, Nack)
        on = delivery(now=on.now + 7.0, error=nack.error)
    return history_of(on)


def _raised(error: Exception) -> Exception:
    """The error with the traceback of having been raised."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_the_history_holds_the_newest_ten_errors() -> None:
    history = failed_times(HISTORY_LIMIT + 3)

    assert [error.attempt for error in history.errors] == list(range(4, 14))
    assert history.failing_since == 1007.0


def test_only_the_newest_error_has_its_traceback() -> None:
    errors = failed_times(4).errors

    assert [bool(error.traceback) for error in errors] == [False, False, False, True]
    assert "number 4" in errors[-1].traceback


def test_a_snooze_and_a_parking_leave_the_errors_as_they_were() -> None:
    before = failed_times(2)
    for outcome in (Unknown(), Raised(Snooze(1))):
        nack = again(decided(outcome, delivery(error=msgspec.json.encode(before))), 1.0, counted=False)
        assert history_of(delivery(error=nack.error)).errors == before.errors


def test_messages_and_tracebacks_are_cut() -> None:
    cut = report(_raised(ValueError("x" * 3 * MESSAGE_LIMIT)), attempt=1, at=0.0)

    assert cut.message == "x" * MESSAGE_LIMIT
    assert len(cut.traceback) == MESSAGE_LIMIT


def test_errors_raised_alike_have_one_fingerprint() -> None:
    def here(error: Exception) -> str:
        return report(_raised(error), attempt=1, at=0.0).fingerprint

    def elsewhere(error: Exception) -> str:
        with pytest.raises(ValueError, match="job 1") as caught:
            raise error
        return report(caught.value, attempt=1, at=0.0).fingerprint

    assert here(ValueError("job 1")) == here(ValueError("job 2"))
    assert here(ValueError("job 1")) != here(KeyError("job 1"))
    assert here(ValueError("job 1")) != elsewhere(ValueError("job 1"))


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("attempt", [1, 3])
@pytest.mark.parametrize(
    "error", [Mute(), ValueError("\udcff"), Discard("\udcff"), Snooze(1, "\udcff"), RetryIn(1, "\udcff")]
)
def test_an_error_whose_text_cannot_be_sent_is_settled_all_the_same(error: Exception, attempt: int) -> None:
    assert decided(Raised(_raised(error)), delivery(attempt=attempt)).settlement.receipt == "r"


@pytest.mark.parametrize("guarantee", ["at_least_once", "at_most_once"])
def test_a_mute_error_on_the_discard_list_is_discarded(guarantee: Any) -> None:
    policy = msgspec.structs.replace(POLICY, guarantee=guarantee, retry=Retry(3, discard_on=(Mute,)))

    assert acked(decided(Raised(Mute()), policy=policy)).end == "discarded"


SHAPED = st.fixed_dictionaries(
    {},
    optional={
        "errors": st.lists(st.dictionaries(st.sampled_from(["type", "message", "attempt", "at"]), st.text())),
        "failing_since": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "parked_since": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "parked": st.integers(-(10**400), 10**400),
    },
)


@given(st.binary() | st.builds(msgspec.json.encode, SHAPED))
def test_hostile_error_bytes_only_lose_the_history(error: bytes) -> None:
    on = delivery(error=error)

    assert decided(Raised(ValueError("no")), on).settlement.receipt == "r"
    assert decided(Unknown(), on).settlement.receipt == "r"
    assert decided(Poisonous(), on).settlement.receipt == "r"


@given(st.binary())
def test_bytes_that_tell_of_no_end_are_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match="outcome"):
        read_outcome(data)
