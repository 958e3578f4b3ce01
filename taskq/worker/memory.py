"""How much memory processes hold, as Linux tells it, and whether a worker's grows with the jobs it runs."""

import os
import resource
import sys
from collections import deque
from itertools import pairwise
from pathlib import Path

from taskq.events import MemoryGrown

STEPS = 10
"""Parts of the runs looked at: in each the least it held must be more than in the one before."""
LEAST = 4 << 20
"""Bytes of growth that are worth a word. A worker without a leak grew by 0.2 MiB in a million jobs."""


def memory_of(process: str) -> int:
    """Bytes of resident memory of a process, or of ``self``; 0 when it has ended, or where the system does not tell."""
    try:
        pages = Path("/proc", process, "statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def highest() -> int:
    """Bytes of resident memory that this process, or whoever started it, has held at most so far."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found << 10


class Peak:
    """The most resident memory that this process holds from now on."""

    def __init__(self) -> None:
        # Not highest(), which begins with the memory of the process that started this one.
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._before = 0
        except OSError:
            self._before = _mark()

    def read(self) -> int:
        """In bytes; 0 where the system does not tell, or cannot forget that it was more before."""
        mark = _mark()
        return mark if mark > self._before else 0


def _mark() -> int:
    """Where its high-water mark is."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


class Growth:
    """Notices that memory grows steadily over a number of runs: a leak, and not a cache that fills or a large job."""

    def __init__(self, span: int) -> None:
        self._step = max(1, span // STEPS)
        self._troughs: deque[tuple[int, int]] = deque(maxlen=STEPS)
        """Of each part that is over: runs at its end, and the least memory seen in it."""
        self._trough: int | None = None
        self._until = self._step

    def note(self, jobs: int, memory: int) -> MemoryGrown | None:
        """Take in what is held after so many runs; once growth was told, it must go on as long to be told again."""
        self._trough = memory if self._trough is None else min(self._trough, memory)
        if jobs < self._until:
            return None
        self._troughs.append((jobs, self._trough))
        self._trough, self._until = None, jobs + self._step
        held = [trough for _, trough in self._troughs]
        steady = all(later > earlier for earlier, later in pairwise(held))
        if len(held) < STEPS or not steady or held[-1] - held[0] < LEAST:
            return None
        (first, _), grown = self._troughs[0], held[-1] - held[0]
        self._troughs.clear()
        return MemoryGrown(jobs=jobs - first, grown=grown, memory=memory)
