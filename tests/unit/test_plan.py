"""What follows from a schedule and its state at a moment, as values."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskq.errors import InvalidSchedule
from taskq.job import Job
from taskq.plan import KEPT, State, begun, decide, done, is_due, up_to_date
from taskq.schedule import LIFE, TICK, Schedule, job_id, job_of, make_schedule, make_timetable
from taskq.timing import ticks
from tests.unit.clock_changes import changes

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
MINUTE = 60.0


def a_schedule(when: str = "*/5 * * * *", **options: Any) -> Schedule:
    return make_schedule("report", make_timetable(when, options), Job(id="", task="report", body=b"{}"))


def after(schedule: Schedule, minutes: float, state: State | None = None, **standing: Any) -> State:
    """What is decided so many minutes after noon."""
    return decide(schedule, state or begun(schedule, NOON), NOON + minutes * MINUTE, standing)[0]


def told(state: State) -> list[tuple[str, float]]:
    """Verdicts, with the minutes after noon."""
    return [(decided.verdict, (decided.tick - NOON) / MINUTE) for decided in state.history]


def fired(state: State) -> list[float]:
    return [(pending.tick - NOON) / MINUTE for pending in state.pending]


def test_nothing_is_due_before_the_first_tick() -> None:
    schedule = a_schedule()

    assert after(schedule, 4.9) == begun(schedule, NOON)
    assert not is_due(schedule, begun(schedule, NOON), NOON)
    assert is_due(schedule, begun(schedule, NOON), NOON + 5 * MINUTE)


def test_a_tick_is_decided_once() -> None:
    schedule = a_schedule()
    state = after(schedule, 5)

    assert fired(state) == [5]
    assert after(schedule, 9, state) == state
    assert state.jobs == ("report@2026-03-01T12:05:00Z",)


@pytest.mark.parametrize(
    ("options", "minutes", "fires", "history"),
    [
        ({}, 17, [15], [("missed", 5), ("fired", 15)]),
        ({"misfire": "latest"}, 15, [15], [("missed", 5), ("fired", 15)]),
        ({"misfire": "latest", "grace": 60}, 17, [], [("missed", 5)]),
        ({"misfire": "skip"}, 17, [], [("missed", 5)]),
        ({"misfire": "skip"}, 15.5, [15], [("missed", 5), ("fired", 15)]),
        ({"misfire": "skip", "grace": timedelta(minutes=3)}, 17, [15], [("missed", 5), ("fired", 15)]),
        ({"misfire": "all"}, 17, [5, 10, 15], [("fired", 5), ("fired", 10), ("fired", 15)]),
        ({"misfire": "all", "limit": 2}, 17, [10, 15], [("missed", 5), ("fired", 10), ("fired", 15)]),
        ({"misfire": "all", "grace": 300}, 17, [15], [("missed", 5), ("fired", 15)]),
    ],
)
def test_missed_ticks_follow_the_misfire_policy(
    options: dict[str, Any], minutes: float, fires: list[float], history: list[tuple[str, float]]
) -> None:
    state = after(a_schedule(**options), minutes)

    assert fired(state) == fires
    assert told(state) == history
    assert state.last == NOON + 15 * MINUTE


def test_several_missed_ticks_are_one_entry_that_counts_them() -> None:
    state = after(a_schedule(misfire="skip"), 62)
    (missed,) = state.history

    assert (missed.count, missed.until) == (12, NOON + 60 * MINUTE)
    assert after(a_schedule("* * * * * *", misfire="skip", grace=0), 60.01).history[0].count == 0


@pytest.mark.parametrize(
    ("options", "standing", "verdict"),
    [
        ({"overlap": "allow"}, ["live"], "fired"),
        ({"overlap": "skip"}, ["live"], "skipped"),
        ({"overlap": "skip"}, ["dead"], "fired"),
        ({"overlap": "skip"}, [], "fired"),
        ({"overlap": "queue_one"}, ["live"], "fired"),
        ({"overlap": "queue_one"}, ["live", "live"], "skipped"),
        ({"overlap": "queue_one"}, ["dead", "live"], "fired"),
        ({"block_while_failed": True}, ["live"], "fired"),
        ({"block_while_failed": True}, ["live", "dead"], "skipped"),
        ({"block_while_failed": True}, ["dead", "live"], "skipped"),
        ({"block_while_failed": True}, ["dead", "ended", "live"], "fired"),
        ({"block_while_failed": True, "overlap": "skip"}, ["live"], "skipped"),
    ],
)
def test_a_tick_is_held_up_by_how_the_earlier_jobs_stand(
    options: dict[str, Any], standing: list[str], verdict: str
) -> None:
    schedule = a_schedule(**options)
    jobs = {f"report@{n}": word for n, word in enumerate(standing)}
    known = {job: word for job, word in jobs.items() if word != "ended"}
    state = after(schedule, 5, replace(begun(schedule, NOON), jobs=tuple(jobs)), **known)

    assert told(state) == [(verdict, 5)]


def test_what_is_decided_and_not_yet_enqueued_counts_as_live() -> None:
    schedule = a_schedule(overlap="skip")

    assert told(after(schedule, 10, after(schedule, 5))) == [("fired", 5), ("skipped", 10)]


def test_cancel_previous_names_what_is_to_be_cancelled() -> None:
    schedule = a_schedule(overlap="cancel_previous")
    state = replace(begun(schedule, NOON), jobs=("report@0", "report@1"))
    (pending,) = after(schedule, 5, state, **{"report@1": "live"}).pending

    assert pending.cancel == ("report@1",)
    assert schedule.job.group == "schedule:report"


def test_a_paused_schedule_lets_its_ticks_pass() -> None:
    schedule = a_schedule()
    state = after(schedule, 12, replace(begun(schedule, NOON), paused=True))

    assert (state.pending, state.history, state.last) == ((), (), NOON + 10 * MINUTE)


def test_a_refusal_takes_the_place_of_the_firing_in_the_history() -> None:
    state = after(a_schedule(), 5)
    (pending,) = state.pending

    refused = done(state, pending, "too large", NOON)
    assert (told(refused), refused.pending) == ([("refused", 5)], ())
    assert done(refused, pending, None, NOON) == refused
    assert told(done(state, pending, None, NOON)) == [("fired", 5)]


def test_a_new_timing_does_not_make_up_for_what_was_never_due() -> None:
    daily, hourly = a_schedule("0 0 * * *"), a_schedule("0 * * * *", misfire="all")
    state = begun(daily, NOON)
    later = NOON + 300.5 * MINUTE

    assert fired(decide(hourly, up_to_date(hourly, state, later), later, {})[0]) == [300]
    assert up_to_date(daily, state, later) == state


def test_the_history_is_bounded() -> None:
    schedule = a_schedule()
    state = begun(schedule, NOON)
    for n in range(1, KEPT + 30):
        state = after(schedule, 5 * n, state)

    assert len(state.history) == KEPT
    assert told(state)[-1] == ("fired", 5 * (KEPT + 29))


def test_a_jitter_is_the_same_whoever_enqueues_the_tick() -> None:
    schedule = a_schedule(jitter=60)
    moments = [job_of(schedule, NOON + n * 300, "a").run_at or 0 for n in range(50)]

    assert moments == [job_of(schedule, NOON + n * 300, "b").run_at for n in range(50)]
    assert all(0 <= moment - NOON - n * 300 < 60 for n, moment in enumerate(moments))
    assert len({moment % 300 for moment in moments}) == 50
    assert job_of(a_schedule(), NOON, "a").run_at is None


def test_a_job_of_a_tick_says_whose_it_is() -> None:
    job = job_of(a_schedule(), NOON, "a")

    assert job.id == job_id("report", NOON) == "report@2026-03-01T12:00:00Z"
    assert dict(job.headers) == {TICK: "2026-03-01T12:00:00+00:00", LIFE: "a"}


@given(
    st.lists(st.floats(1, 4000), max_size=12),
    st.sampled_from([{}, {"misfire": "skip"}, {"misfire": "all", "limit": 3}, {"grace": 120}, {"overlap": "skip"}]),
    st.sampled_from(["*/5 * * * *", "every 7m", "0 */2 * * *"]),
)
def test_whenever_it_is_looked_at_each_tick_is_decided_exactly_once(
    gaps: list[float], options: dict[str, Any], when: str
) -> None:
    schedule = a_schedule(when, **options)
    state, now = begun(schedule, NOON), NOON
    for gap in gaps:
        now += gap
        state, _ = decide(schedule, state, now, {})
        state = replace(state, pending=())
    due = _every(schedule, now)

    assert sum(entry.count for entry in state.history) == len(due)
    assert [entry.tick for entry in state.history if entry.verdict == "fired"] == sorted(
        {entry.tick for entry in state.history if entry.verdict == "fired"}
    )
    assert {entry.tick for entry in state.history} <= set(due)


def _every(schedule: Schedule, now: float) -> list[float]:
    found: list[float] = []
    for tick in ticks(schedule.timetable.timing, NOON):
        if tick > now:
            break
        found.append(tick)
    return found


# An outage of three hours over a change of the clocks


def test_after_three_hours_over_a_change_of_the_clocks_the_policy_alone_says_what_fires() -> None:
    # Those whose quarters of an hour are everybody's.
    seen = [change for change in changes() if change.after.seconds % 900 == change.before.seconds % 900 == 0]
    for change in seen:
        begins = change.at - 5400
        ends = begins + 3 * 3600 + 90
        every_quarter = [begins + 900 * n for n in range(1, 13)]
        # Half an hour before the change: named, so that it fires once, whatever the clocks do.
        local = datetime.fromtimestamp(begins + 3600, ZoneInfo(change.zone))
        named = f"{local.minute} {local.hour} * * *"

        def fires(
            when: str, begins: float = begins, ends: float = ends, tz: str = change.zone, **more: Any
        ) -> list[float]:
            schedule = a_schedule(when, tz=tz, **more)
            return [pending.tick for pending in decide(schedule, begun(schedule, begins), ends, {})[0].pending]

        assert fires("*/15 * * * *", misfire="skip") == [], change
        assert fires("*/15 * * * *") == every_quarter[-1:], change
        assert fires("*/15 * * * *", misfire="all", limit=10) == every_quarter[2:], change
        assert fires(named) == fires(named, misfire="all", limit=10) == [begins + 3600], change
    assert len(seen) >= 100


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"misfire": "often"}, "misfire='often'"),
        ({"overlap": "sometimes"}, "overlap='sometimes'"),
        ({"misfire": "all", "overlap": "skip"}, 'misfire="latest", or overlap="allow"'),
        ({"limit": 5}, 'misfire="all"'),
        ({"misfire": "all", "limit": 0}, "limit=0"),
        ({"grace": -1}, "grace=-1"),
        ({"jitter": "5"}, "jitter='5'"),
        ({"tz": 5}, "tz=5"),
        ({"twice": "yes"}, "twice='yes'"),
        ({"except_": "2026-12-24"}, "give a list"),
        ({"except_": [5]}, "neither a date nor text"),
        ({"except": ["2026-12-24"]}, "unknown option"),
    ],
)
def test_what_a_schedule_says_is_checked_at_once(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSchedule, match=words):
        a_schedule(**options)


def test_a_date_may_be_written_or_given() -> None:
    given = a_schedule(except_=[date(2026, 12, 24), "2026-12-25"]).timetable.timing

    assert given.except_ == ("2026-12-24", "2026-12-25")


def test_a_job_that_goes_against_its_schedule_is_refused() -> None:
    table = make_timetable("*/5 * * * *", {"overlap": "queue_one"})

    with pytest.raises(InvalidSchedule, match="drop one of them"):
        make_schedule("report", table, Job(id="", task="report", body=b"", group="g"))
    with pytest.raises(InvalidSchedule, match="run_at"):
        make_schedule("report", table, Job(id="", task="report", body=b"", run_at=NOON))
    with pytest.raises(InvalidSchedule, match="a schedule's name"):
        make_schedule("a b", table, Job(id="", task="report", body=b""))
