"""Finding dead letters: by id or by what they have in common, over all queues, in the order of their ids."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec import Struct
from msgspec.structs import asdict

from taskq.broker import Admin, Record
from taskq.cli.record import ended_of, errors_of
from taskq.tags import tags_of

PAGE = 500
"""Dead letters in one call: small beside a broker's own limits, large beside a round trip."""


class Selection(Struct, frozen=True, kw_only=True):
    """Which dead letters are meant: those that fit everything that is said."""

    ids: Sequence[str] = ()
    queues: Sequence[str] = ()
    task: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    older_than: float | None = None
    tenant: str | None = None
    tag: str | None = None
    after: str | None = None
    limit: int | None = None

    @property
    def narrows(self) -> bool:
        """False when nothing says which."""
        return self != Selection(after=self.after, limit=self.limit)

    @property
    def what(self) -> Sequence[str]:
        """What is meant, as it is noted: ids by themselves."""
        return [f"dead letter {job_id}" for job_id in sorted(set(self.ids))] or ["dead letters"]

    @property
    def said(self) -> str:
        """What they have in common, as it was asked for."""
        asked = [("queue", queue) for queue in self.queues]
        asked += [(name, value) for name, value in asdict(self).items() if value and name not in ("ids", "queues")]
        return ", ".join(f"{name} {value}" for name, value in asked)

    def fits(self, record: Record, now: float) -> bool:
        """Whether a dead letter is meant."""
        job, errors = record.job, errors_of(record)
        ended = ended_of(record)
        texts = [
            ended.reason if ended is not None else "",
            *(f"{error.type}: {error.message}" for error in errors[-1:]),
        ]
        return (
            record.state == "dead"
            and (not self.queues or job.queue in self.queues)
            and self.task in (None, job.task)
            and self.tenant in (None, job.tenant)
            and self.tag in (None, *tags_of(job))
            and (self.after is None or job.id > self.after)
            and (self.error is None or any(self.error in text for text in texts))
            and (self.fingerprint is None or any(self.fingerprint == error.fingerprint for error in errors[-1:]))
            and (self.older_than is None or now - record.due >= self.older_than)
        )


async def select(admin: Admin, selection: Selection, now: float, seen: Callable[[], object]) -> AsyncIterator[Record]:
    """The dead letters that are meant, by rising id; ``seen`` is called for each that was looked at."""
    left = selection.limit
    async for record in _by_id(admin, selection.ids) if selection.ids else walk(admin, selection):
        seen()
        if selection.fits(record, now):
            if left == 0:
                return
            left = None if left is None else left - 1
            yield record


async def count(admin: Admin, selection: Selection) -> int:
    """How many there are to look at."""
    return len(selection.ids) or sum(queue.dead for queue in await admin.stats(selection.queues))


async def walk(admin: Admin, selection: Selection) -> AsyncIterator[Record]:
    """Every dead letter of the queues by rising id, so that one id says how far a walk has come.

    One that is revived and dies again meanwhile keeps its id, and is not met twice.
    """
    queues = selection.queues or [queue.queue for queue in await admin.stats() if queue.dead]
    after: dict[str, str | None] = dict.fromkeys(queues, selection.after)
    pages: dict[str, deque[Record]] = {queue: deque() for queue in after}
    while after:
        for queue in [queue for queue in after if not pages[queue]]:
            page = await admin.list_jobs(queue, "dead", after=after[queue], limit=PAGE)
            pages[queue].extend(page)
            if page:
                after[queue] = page[-1].job.id
            else:
                del after[queue]
        if after:
            yield pages[min(after, key=lambda queue: pages[queue][0].job.id)].popleft()


async def _by_id(admin: Admin, ids: Sequence[str]) -> AsyncIterator[Record]:
    for job_id in sorted(set(ids)):
        record = await admin.find(job_id)
        if record is not None:
            yield record
