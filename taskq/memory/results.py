"""The results part."""

from taskq.job import JobRef
from taskq.memory.broker import MemoryBroker


class MemoryResults:
    """Outcomes, kept beside the jobs."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def outcome(self, ref: JobRef, *, wait: float) -> bytes | None:
        with self._broker.changing() as (jobs, _):
            outcome = jobs.outcome((ref.queue, ref.id))
        if outcome is not None or wait <= 0:
            return outcome
        await self._broker.end_of((ref.queue, ref.id), wait)
        with self._broker.changing() as (jobs, _):
            return jobs.outcome((ref.queue, ref.id))
