"""Moments with a label, such as deploys, that are seen beside what became of jobs.

All are members of one key, so that the same label in the same minute is the same mark, whoever sets it.
"""

from collections.abc import Sequence

from msgspec import Struct

from taskq.errors import ConfigError
from taskq.store import Store

KEPT = 90 * 86_400.0
"""Seconds after which a mark lapses."""
MINUTE = 60
LONGEST = 100
"""Characters of a label."""
MOST = 10_000
"""Marks at once: more than 100 a day."""

_KEY = "history:marks"


class Mark(Struct, frozen=True, order=True):
    """What was noted, and in which minute."""

    at: int
    """When the minute began, in seconds since the epoch, by the backend's clock."""
    label: str


async def mark(store: Store, label: str) -> Mark:
    """Note that something happens now, such as a deploy: once a minute for each label.

    Raises ConfigError for a label that is empty, longer than 100 characters or not printable, and when 10,000 marks
    are kept already.
    """
    if not label.strip() or len(label) > LONGEST or not label.isprintable():
        raise ConfigError(f"label {label!r:.120}: give 1 to {LONGEST} printable characters")
    new = Mark(int((await store.get(_KEY)).now) // MINUTE * MINUTE, label)
    if not await store.add(_KEY, [f"{new.at}/{label}"], ttl=KEPT, ceiling=MOST):
        raise ConfigError(f"there are {MOST} marks of the last 90 days already: mark deploys, not jobs")
    return new


async def marks_since(store: Store, moment: float) -> Sequence[Mark]:
    """All marks from the minute on that this moment is in, the oldest first."""
    parted = [member.partition("/") for member in (await store.get(_KEY)).members]
    marks = sorted(Mark(int(at), label) for at, _, label in parted)
    return [mark for mark in marks if mark.at + MINUTE > moment]
