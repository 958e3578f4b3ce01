"""Noticing that a server has gone back: emptied, restored from a copy, or replaced by a replica that lagged behind."""

import logging

from msgspec import Struct

_log = logging.getLogger("taskq.redis")

KEPT = 60.0
"""Seconds for which the server keeps the moment of a look."""

_CERTAIN = 0.8 * KEPT
"""Within so many seconds after a look its moment has to be there still."""


class Look(Struct, frozen=True):
    """What the server said of a look; moments are microseconds of its own clock."""

    since: int
    """Nothing was lost since then."""
    latest: int
    """When it was."""


_NONE = Look(0, 0)


class Setbacks:
    """Compares what each fetch is told of the one before with what this process knows of it.

    It costs no round trip, and says once what must be lost; nothing else would tell of jobs that are not there.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._known: dict[str, Look] = {}

    def known(self, queue: str) -> Look:
        """The last look that was answered. To be asked for *before* the next one is sent."""
        return self._known.get(queue, _NONE)

    def compare(self, queue: str, known: Look, before: int, look: Look) -> None:
        """Report a server that knew of no look as late as ``known``, or that told another process so."""
        self._known[queue] = look
        if known is _NONE or (before >= known.latest and look.since == known.since):
            return
        if before == 0 and look.latest - known.latest > _CERTAIN * 1e6:
            return
        lost = f"the last {(known.latest - before) / 1e6:.3f} s" if 0 < before < known.latest else "jobs"
        _log.error(
            "%s: the server has lost %s of queue %r, and probably of others: it was emptied, restarted from a copy or "
            "without its append-only file, failed over to a replica that lagged, or has evicted keys. What was "
            "deferred is gone, what had ended may run again; taskq doctor says what to change",
            self._name,
            lost,
            queue,
        )
