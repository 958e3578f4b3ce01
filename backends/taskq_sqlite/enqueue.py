"""How jobs come in: each is added, answered by who holds its place, or refused."""

import sqlite3
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from taskq.errors import Conflict
from taskq.job import Enqueued, Job
from taskq_sqlite.groups import Group, show
from taskq_sqlite.queries import Queries
from taskq_sqlite.rows import Stored, due_of, group_of, read, refusal, values_of, written


class Holder(Struct, frozen=True):
    """Who has the id or the unique key that a new job wants."""

    seq: int
    id: str
    group: str | None
    state: Stored
    token: int | None
    cancelled: int
    rest: str | None
    key_until: str | float | None
    lapses_at: float | None

    def has_lapsed(self, now: float) -> bool:
        """A dead letter that nobody has removed yet although its time is over."""
        return self.lapses_at is not None and self.lapses_at <= now

    def has_lost_key(self, now: float) -> bool:
        return isinstance(self.key_until, float) and self.key_until <= now


def enqueue(cursor: sqlite3.Cursor, sql: Queries, jobs: Sequence[Job], *, now: float, max_size: int) -> list[Enqueued]:
    """Add the jobs; one answer each."""
    answers: list[Enqueued] = []
    changed: dict[Group, None] = {}
    for job in jobs:
        refused = refusal(job, max_size)
        if refused is not None:
            answers.append(Enqueued(job.id, False, refused))
            continue
        answer = _add(cursor, sql, job, now)
        answers.append(answer)
        if answer.added and (name := group_of(job)) is not None:
            changed[job.queue, name] = None
    for group in changed:
        show(cursor, sql, group)
    return answers


def _add(cursor: sqlite3.Cursor, sql: Queries, job: Job, now: float) -> Enqueued:
    ref = (job.queue, job.id)
    ended = cursor.execute(sql.ended_id, ref).fetchone()
    if ended is not None and ended[0] > now:
        return Enqueued(job.id, False)
    values = values_of(job, now)
    while not cursor.execute(sql.add_job, values).rowcount:
        found = cursor.execute(sql.holder_of_id, ref).fetchone()
        if found is not None:
            holder = Holder(*found)
            if not holder.has_lapsed(now):
                return Enqueued(job.id, False)
            cursor.execute(sql.remove_job, (holder.seq,))
            cursor.execute(sql.count_lapsed, (job.queue,))
            continue
        holder = Holder(*cursor.execute(sql.holder_of_key, (job.queue, job.unique)).fetchone())
        if not holder.has_lapsed(now) and not holder.has_lost_key(now):
            return _defer_to(cursor, sql, holder, job, now)
        cursor.execute(sql.release_key, (holder.seq,))
    if ended is not None:
        cursor.execute(sql.forget_ended, ref)
    return Enqueued(job.id, True)


def _defer_to(cursor: sqlite3.Cursor, sql: Queries, holder: Holder, job: Job, now: float) -> Enqueued:
    """What a job is answered whose unique key another one holds."""
    if job.on_conflict == "return":
        return Enqueued(holder.id, False)
    # A holder with a token may still be settled late, and a cancelled one will not run: neither may take over a
    # call that would be lost with it.
    waiting = holder.token is None and not holder.cancelled and holder.state != "dead"
    if job.on_conflict == "replace" and waiting:
        _replace(cursor, sql, holder, job, now)
        return Enqueued(holder.id, False)
    message = f"job {holder.id} holds the unique key {job.unique!r} of queue {job.queue!r}"
    return Enqueued(holder.id, False, Conflict(message, holder.id))


def _replace(cursor: sqlite3.Cursor, sql: Queries, holder: Holder, job: Job, now: float) -> None:
    due = due_of(job, now)
    rest = replace(
        read(holder.rest),
        delay=job.delay,
        run_at=job.run_at,
        expires_in=job.expires_in,
        headers=dict(job.headers),
    )
    cursor.execute(
        sql.replace_job,
        {
            "seq": holder.seq,
            "now": now,
            "task": job.task,
            "body": job.body,
            "priority": job.priority,
            "rest": written(rest),
            "due": due,
            "expires_at": None if job.expires_in is None else due + job.expires_in,
        },
    )
    if holder.group is not None:
        show(cursor, sql, (job.queue, holder.group))
