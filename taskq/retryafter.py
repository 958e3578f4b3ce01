"""How long a server asks to be left alone: seconds, a moment, or its ``Retry-After`` header as it came."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from math import inf

RetryAfter = float | timedelta | datetime | str


def seconds_or_moment(given: RetryAfter) -> tuple[float, float | None]:
    """Seconds from now, or a moment in seconds since the epoch; raises ValueError for what is neither."""
    match given:
        case timedelta():
            seconds = given.total_seconds()
        case datetime():
            return 0.0, given.timestamp()
        case str() if not given.strip().isdigit():
            moment = parsedate_to_datetime(given)
            return 0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        case _:
            seconds = float(given)
    if not 0 <= seconds < inf:
        raise ValueError(f"{given!r} is no number of seconds of at least 0")
    return seconds, None


def seconds_from_now(given: RetryAfter) -> float:
    """The same in seconds, by this machine's clock; 0 for a moment that has passed."""
    seconds, moment = seconds_or_moment(given)
    return seconds if moment is None else max(0.0, moment - time.time())
