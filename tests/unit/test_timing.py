"""When schedules are due: every zone's missing and doubled hours, intervals, exceptions, and what is refused."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import InvalidSchedule
from taskq.timing import Timing, make_timing, passed, ticks
from tests.unit.clock_changes import END, START, ZONES, Change, changes

HOUR = 3600.0


def between(timing: Timing, first: float, last: float) -> list[float]:
    return list(takewhile(lambda tick: tick < last, ticks(timing, first - 1)))


def local_middle(change: Change) -> datetime:
    """The middle of the local time that is missing, or comes twice."""
    jump = abs(change.after - change.before)
    first = min(change.before, change.after)
    return (datetime.fromtimestamp(change.at, UTC) + first + jump / 2).replace(tzinfo=None, second=0)


def test_there_are_changes_of_both_kinds() -> None:
    kinds = {change.after > change.before for change in changes()}

    assert kinds == {True, False}
    assert len(changes()) > 100


def test_in_every_zone_a_named_local_time_happens_once_on_a_day_without_it_and_once_when_it_comes_twice() -> None:
    for change in changes():
        local = local_middle(change)
        cron = f"{local.minute} {local.hour} * * *"
        day = between(make_timing(cron, tz=change.zone), change.at - 11 * HOUR, change.at + 11 * HOUR)
        if change.after > change.before:
            assert day == [change.at], change
        else:
            first = local.replace(tzinfo=ZoneInfo(change.zone)).timestamp()
            assert day == [first], change
            both = between(make_timing(cron, tz=change.zone, twice=True), first, first + 11 * HOUR)
            assert both == [first, first + (change.before - change.after).total_seconds()], change


@pytest.mark.parametrize("cron", ["*/15 * * * *", "7 * * * *", "*/20 */2 * * *"])
def test_in_every_zone_a_star_for_the_hour_goes_by_what_clocks_show(cron: str) -> None:
    minutes, hours, *_ = (part.partition("/") for part in cron.split())
    for change in changes():
        zone = ZoneInfo(change.zone)
        first = change.at - 5 * HOUR

        def shown(moment: float, zone: ZoneInfo = zone) -> bool:
            local = datetime.fromtimestamp(moment, zone)
            right = local.minute % int(minutes[2]) == 0 if minutes[2] else local.minute == int(minutes[0])
            return right and local.hour % int(hours[2] or 1) == 0

        expected = [moment for minute in range(600) if shown(moment := first + 60.0 * minute)]
        assert between(make_timing(cron, tz=change.zone), first, first + 10 * HOUR) == expected, change


@given(st.sampled_from(ZONES), st.integers(0, 23), st.integers(0, 59), st.floats(START, END))
def test_a_daily_time_has_one_tick_for_each_local_day(zone: str, hour: int, minute: int, after: float) -> None:
    found = list(islice(ticks(make_timing(f"{minute} {hour} * * *", tz=zone), after), 200))
    days = [datetime.fromtimestamp(tick, ZoneInfo(zone)).date() for tick in found]

    assert found == sorted(set(found))
    assert days == [days[0] + timedelta(days=n) for n in range(200)]


@given(
    st.sampled_from(ZONES), st.sampled_from(["*/7 * * * *", "10 1-3 * * *", "30 */5 * * * *"]), st.floats(START, END)
)
def test_ticks_do_not_depend_on_where_one_begins_to_count(zone: str, cron: str, after: float) -> None:
    timing = make_timing(cron, tz=zone)
    found = list(islice(ticks(timing, after), 30))

    assert found[10:] == list(islice(ticks(timing, found[9]), 20))
    assert found[10:] == list(islice(ticks(timing, (found[9] + found[10]) / 2), 20))


def test_six_fields_begin_with_the_seconds() -> None:
    found = list(islice(ticks(make_timing("*/20 30 2 * * *", tz="Europe/Berlin"), START), 4))

    assert [datetime.fromtimestamp(tick, UTC).isoformat() for tick in found] == [
        "2024-01-01T01:30:00+00:00",
        "2024-01-01T01:30:20+00:00",
        "2024-01-01T01:30:40+00:00",
        "2024-01-02T01:30:00+00:00",
    ]


@pytest.mark.parametrize(
    ("when", "every"), [("every 10s", 10), ("every 5 m", 300), ("every 2h", 7200), ("every 1d", 86_400)]
)
def test_an_interval_is_counted_from_1970_so_that_all_processes_agree(when: str, every: int) -> None:
    timing = make_timing(when)

    assert timing == make_timing(None, every=every)
    assert all(tick % every == 0 for tick in islice(ticks(timing, START + 0.5), 3))
    assert next(ticks(timing, START)) == START // every * every + every


# Exceptions


def days_of(timing: Timing, count: int) -> Iterator[str]:
    return (
        f"{datetime.fromtimestamp(tick, ZoneInfo(timing.tz)):%a %d %H:%M}"
        for tick in islice(ticks(timing, START), count)
    )


def test_days_and_ranges_of_days_are_left_out() -> None:
    timing = make_timing("0 3 * * *", tz="Asia/Tokyo", except_=["2024-01-02", "2024-01-04/2024-01-06", "2024-01-08"])

    assert list(days_of(timing, 4)) == ["Wed 03 03:00", "Sun 07 03:00", "Tue 09 03:00", "Wed 10 03:00"]


def test_days_that_are_left_out_again_and_again_make_a_schedule_of_every_other_week() -> None:
    timing = make_timing("0 9 * * MON", tz="Europe/Berlin", except_=["2024-01-08/2024-01-14 every 14d", "2024-02-12"])

    found = [datetime.fromtimestamp(tick, ZoneInfo(timing.tz)) for tick in islice(ticks(timing, START), 8)]

    assert [f"{moment:%m-%d %H:%M}" for moment in found] == [
        *("01-01 09:00", "01-15 09:00", "01-29 09:00", "02-26 09:00", "03-11 09:00", "03-25 09:00", "04-08 09:00"),
        "04-22 09:00",
    ]


@pytest.mark.parametrize(
    ("cron", "first"),
    [
        ("0 9 L * *", ["Wed 01-31", "Thu 02-29", "Sun 03-31"]),
        ("0 9 LW * *", ["Wed 01-31", "Thu 02-29", "Fri 03-29"]),
        ("0 9 * * 5L", ["Fri 01-26", "Fri 02-23", "Fri 03-29"]),
        ("0 9 * * MON#2", ["Mon 01-08", "Mon 02-12", "Mon 03-11"]),
        ("0 9 1 */3 *", ["Mon 01-01", "Mon 04-01", "Mon 07-01"]),
    ],
)
def test_cron_text_says_what_calendars_say(cron: str, first: list[str]) -> None:
    found = islice(ticks(make_timing(cron), START), 3)

    assert [f"{datetime.fromtimestamp(tick, UTC):%a %m-%d}" for tick in found] == first


def test_what_a_cron_text_names_is_left_out() -> None:
    timing = make_timing("every 12h", except_=["* * * * SAT,SUN", "0 12 * * *"])

    assert list(days_of(timing, 5)) == ["Tue 02 00:00", "Wed 03 00:00", "Thu 04 00:00", "Fri 05 00:00", "Mon 08 00:00"]


def test_a_timing_that_is_mostly_left_out_is_found_quickly() -> None:
    timing = make_timing("* * * * * *", except_=["* * * 1-11 *", "* 0-22 * * *"])

    assert next(ticks(timing, START)) == datetime(2024, 12, 1, 23, tzinfo=UTC).timestamp()


# Looking back


def test_of_a_long_time_only_the_newest_ticks_are_listed() -> None:
    now = START + 400 * 86_400
    timing = make_timing("* * * * * *")

    assert passed(timing, START, now, 3) == ([now - 2, now - 1, now], True)
    assert passed(timing, now - 3, now, 3) == ([now - 2, now - 1, now], False)
    assert passed(make_timing("0 0 1 1 *"), START, now, 3) == ([datetime(2025, 1, 1, tzinfo=UTC).timestamp()], False)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"when": "61 * * * *"}, "no cron text"),
        ({"when": "* * *"}, "every 10s"),
        ({"when": "every fortnight"}, "every 10s"),
        ({"when": "0 0 31 2 *"}, "no cron text"),
        ({"when": "0 0 31 4 *"}, "no cron text"),
        ({"when": "0 0 1 1 MON#6"}, "no cron text"),
        ({"when": "* * * * *", "every": 10}, "in one way"),
        ({"when": None}, "in one way"),
        ({"when": None, "every": 0.5}, "whole seconds"),
        ({"when": "every 0s"}, "whole seconds"),
        ({"when": None, "every": 1e9}, "whole seconds"),
        ({"when": "* * * * *", "tz": "Europe/Berlim"}, "no time zone"),
        ({"when": "* * * * *", "tz": "/etc/passwd"}, "no time zone"),
        ({"when": "* * * * *", "tz": ""}, "no time zone"),
        ({"when": "every 10s", "twice": True}, "twice"),
        ({"when": "* * * * *", "except_": ["2026-13-01"]}, "2026-13-01"),
        ({"when": "* * * * *", "except_": ["tomorrow"]}, "write a date"),
        ({"when": "* * * * *", "except_": ["2026-12-24/2026-12-01"]}, "ends before it begins"),
        ({"when": "* * * * *", "except_": ["2026-12-24/2026-12-31 every 8d"]}, "before a day is left"),
        ({"when": "0 3 * * SAT", "except_": ["* * * * SAT"]}, "leave no tick"),
        ({"when": "* * * * *", "except_": ["* * * * *"]}, "leave no tick"),
    ],
)
def test_what_makes_no_sense_is_refused_with_words_that_help(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSchedule, match=words):
        make_timing(arguments.pop("when"), **arguments)
