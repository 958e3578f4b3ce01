"""Who did what by hand, and when: pauses, schedules made and removed, dead letters purged.

Noted before it is done: something that is noted may have failed after all, but nothing is done unnoted. The acts of a
day are members of one key, so that who notes waits for nobody, and what is too old lapses by itself.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from taskq.errors import ConfigError
from taskq.store import Store

DAY = 86_400
KEPT = 90 * DAY
"""Seconds for which an act is remembered."""
MOST = 10_000
"""Acts of a day that are noted: more are a program's and nobody's."""
LONGEST = 500
"""Characters of each text of an act."""

_log = logging.getLogger("taskq")


class Act(Struct, frozen=True, order=True, array_like=True):
    """Something that was done by hand."""

    at: float
    """When, in seconds since the epoch, by the backend's clock."""
    by: str
    """Who, as they were named; empty where nobody said."""
    verb: str
    what: str
    """What it was done to: ``queue mail``, ``schedule berlin``."""
    details: str = ""


def check_by(by: str) -> str:
    """The same; raises ConfigError for what names nobody."""
    if len(by) > LONGEST or not by.isprintable():
        raise ConfigError(f"by={by!r:.120}: name who does it in at most {LONGEST} printable characters")
    return by


async def note(store: Store, verb: str, *what: str, by: str = "", details: str = "") -> None:
    """Write down that somebody is about to do this to these. Raises ConfigError for a ``by`` that names nobody."""
    check_by(by)
    now = (await store.get(_key(0))).now
    acts = [Act(now, by, verb, each[:LONGEST], details[:LONGEST]) for each in what]
    for first in range(0, len(acts), 100):
        part = [msgspec.json.encode(act).decode() for act in acts[first : first + 100]]
        if not await store.add(_key(now), part, ttl=KEPT, ceiling=MOST):
            _log.error("%d acts of today are noted, and no more: %s %s by %s is not", MOST, verb, what[first], by)


async def acts_since(store: Store, seconds: float) -> Sequence[Act]:
    """What was done in the last ``seconds``, as far as it is remembered, the oldest first."""
    now = (await store.get(_key(0))).now
    since = now - min(seconds, KEPT)
    days = await asyncio.gather(*(store.get(_key(day)) for day in range(int(since) // DAY * DAY, int(now) + 1, DAY)))
    acts = (msgspec.json.decode(member, type=Act) for day in days for member in day.members)
    return sorted(act for act in acts if act.at >= since)


def _key(moment: float) -> str:
    return f"audit:{int(moment) // DAY}"
