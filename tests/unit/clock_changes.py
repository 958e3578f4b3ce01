"""Every change of a clock in these years, in any zone."""

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from msgspec import Struct

START = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
END = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
ZONES = sorted(available_timezones() - {"localtime", "posixrules", "Factory"})


class Change(Struct, frozen=True):
    """A moment at which a zone's local time jumps."""

    zone: str
    at: float
    before: timedelta
    after: timedelta


def offset(zone: ZoneInfo, moment: float) -> timedelta:
    return datetime.fromtimestamp(moment, zone).utcoffset() or timedelta()


@cache
def changes() -> tuple[Change, ...]:
    """The last two changes of each kind of zone: names of one and the same clock are not told apart."""
    found: dict[object, Change] = {}
    for name in ZONES:
        zone = ZoneInfo(name)
        moments = range(int(START), int(END), 12 * 3600)
        offsets = [offset(zone, moment) for moment in moments]
        for early, before, after in zip(moments, offsets, offsets[1:], strict=False):
            if before != after:
                at = next(at for at in range(early, early + 12 * 3600 + 1, 60) if offset(zone, at) == after)
                found.setdefault((at, before, after), Change(name, float(at), before, after))
    return tuple(found.values())
