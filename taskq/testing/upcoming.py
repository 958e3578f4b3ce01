"""When schedules are due: for tests that a schedule is there and says what was meant."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

from taskq.app import App
from taskq.errors import InvalidSchedule
from taskq.timing import ticks


def upcoming(app: App, name: str, count: int = 5, *, after: datetime | None = None) -> Sequence[datetime]:
    """The next moments at which a schedule of the code or the configuration is due, by the clock of its zone.

    Behind now, or behind ``after``, which names its zone. The app need not be open. Raises InvalidSchedule when there
    is no such schedule, or when any of the app's cannot be one.
    """
    app.check()
    if name not in app.schedules.static:
        known = ", ".join(sorted(app.schedules.static)) or "none"
        raise InvalidSchedule(f"the app has no schedule {name!r} (known: {known})")
    if after is not None and after.tzinfo is None:
        raise InvalidSchedule(f"after={after!r} has no time zone; say which moment is meant")
    timing = app.schedules.static[name].timetable.timing
    start = (after or datetime.now(UTC)).timestamp()
    return [datetime.fromtimestamp(tick, ZoneInfo(timing.tz)) for tick in islice(ticks(timing, start), count)]
