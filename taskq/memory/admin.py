"""The admin part: plain walks over all jobs, for a backend that holds few enough to fit in memory."""

from collections.abc import Sequence

from taskq.broker import QueueStats, Record, Revival
from taskq.job import JobRef, State
from taskq.memory.broker import MemoryBroker
from taskq.memory.jobs import Jobs
from taskq.memory.row import Row


class MemoryAdmin:
    """What an operator may see and do."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def stats(self, queues: Sequence[str] = ()) -> list[QueueStats]:
        with self._broker.changing() as (jobs, now):
            wanted = set(queues)
            found: dict[str, list[tuple[State, float]]] = {queue: [] for queue in wanted}
            for row in jobs.rows():
                if not wanted or row.job.queue in wanted:
                    found.setdefault(row.job.queue, []).append((jobs.state(row, now), row.due))
            return [_stats(queue, found[queue], jobs.lapsed[queue], now) for queue in sorted(found)]

    async def lookup(self, ref: JobRef) -> Record | None:
        with self._broker.changing() as (jobs, now):
            row = jobs.live.get((ref.queue, ref.id)) or jobs.dead.get((ref.queue, ref.id))
            return None if row is None else _record(jobs, row, now)

    async def find(self, id: str) -> Record | None:
        with self._broker.changing() as (jobs, now):
            return next((_record(jobs, row, now) for row in jobs.rows() if row.job.id == id), None)

    async def list_jobs(self, queue: str, state: State, *, after: str | None, limit: int) -> list[Record]:
        with self._broker.changing() as (jobs, now):
            found = sorted(
                (row for row in jobs.rows() if row.job.queue == queue and jobs.state(row, now) == state),
                key=lambda row: row.job.id,
            )
            behind = [row for row in found if after is None or row.job.id > after]
            return [_record(jobs, row, now) for row in behind[:limit]]

    async def cancel(self, refs: Sequence[JobRef]) -> list[bool]:
        with self._broker.changing() as (jobs, now):
            return [jobs.cancel((ref.queue, ref.id), now) for ref in refs]

    async def revive(self, refs: Sequence[JobRef]) -> list[Revival]:
        answers: dict[bool | None, Revival] = {True: "revived", False: "conflict", None: "unknown"}
        with self._broker.changing() as (jobs, now):
            return [answers[jobs.revive((ref.queue, ref.id), now)] for ref in refs]

    async def purge(self, refs: Sequence[JobRef]) -> list[bool]:
        with self._broker.changing() as (jobs, _):
            return [jobs.purge((ref.queue, ref.id)) for ref in refs]


def _stats(queue: str, found: Sequence[tuple[State, float]], lapsed: int, now: float) -> QueueStats:
    states = [state for state, _ in found]
    waited = [now - due for state, due in found if state == "ready"]
    return QueueStats(
        queue=queue,
        later=states.count("later"),
        ready=states.count("ready"),
        leased=states.count("leased"),
        dead=states.count("dead"),
        oldest=max(waited, default=0.0),
        lapsed=lapsed,
    )


def _record(jobs: Jobs, row: Row, now: float) -> Record:
    state = jobs.state(row, now)
    return Record(
        job=row.job,
        state=state,
        attempt=row.attempt,
        losses=row.losses,
        due=jobs.epoch + (row.until if state == "leased" else row.due),
        expires_at=None if row.expires_at is None else jobs.epoch + row.expires_at,
        cancelled=row.cancelled,
        error=row.error,
        outcome=row.outcome,
    )
