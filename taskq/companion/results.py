"""Outcomes, out of the rows of jobs that have ended."""

import asyncio

from taskq.companion.rows import Rows
from taskq.job import JobRef

_FIRST, _LAST = 0.02, 0.5
"""Seconds between two looks: longer each time."""


class CompanionResults:
    """Every end leaves its outcome in the store."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    async def outcome(self, ref: JobRef, *, wait: float) -> bytes | None:
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + wait, _FIRST
        while True:
            row, now = await self._rows.get(ref)
            if row is not None and (row.state == "dead" or (row.state == "ended" and now < row.kept)):
                return row.outcome
            left = until - loop.time()
            if left <= 0 or (row is not None and row.state == "ended"):
                return None
            # A store has nothing to wait for.
            await asyncio.sleep(min(pause, left))
            pause = min(_LAST, 1.5 * pause)
