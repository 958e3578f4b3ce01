"""Sending: the row is written first, then its key is held, then the message goes, and that it went is written last.

A crash in between leaves a row that says so, and whoever comes across it goes on from there.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from itertools import count
from secrets import token_hex

from msgspec.structs import replace

from taskq.broker import Broker
from taskq.companion import moves
from taskq.companion.later import Later, Moment
from taskq.companion.row import Row
from taskq.companion.rows import Rows
from taskq.errors import BrokerRejected, BrokerUnavailable, Conflict, PayloadTooLarge, TaskqError
from taskq.job import Delivery, Enqueued, Job, JobRef

_log = logging.getLogger("taskq")

CARRIED = "taskq-carried"
"""The header of a message that a companion sent: which life of which id it is of."""


class Sender:
    """Brings jobs into the store and their messages on their way."""

    def __init__(self, rows: Rows, later: Later, carrier: Broker) -> None:
        self._rows = rows
        self._later = later
        self._carrier = carrier

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        """As :meth:`Broker.enqueue`."""
        answers: dict[int, Enqueued] = {}
        for turn in _turns(jobs):
            added = await asyncio.gather(*(self._add(jobs[at]) for at in turn), return_exceptions=True)
            for at, answer in zip(turn, added, strict=True):
                if isinstance(answer, TaskqError):
                    answers[at] = Enqueued(jobs[at].id, False, answer)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    answers[at] = answer
        found = [answers[at] for at in range(len(jobs))]
        lost = [answer.error for answer in found if isinstance(answer.error, BrokerUnavailable)]
        if lost and len(lost) == len(jobs):
            raise lost[0]
        return found

    async def _add(self, job: Job) -> Enqueued:
        if len(job.body) > self._carrier.traits.max_size:
            most = self._carrier.traits.max_size
            return Enqueued(job.id, False, PayloadTooLarge(f"job {job.id} has {len(job.body)} bytes; {most} are taken"))
        while True:
            (row, added), now = await self._rows.change(JobRef(job.queue, job.id), partial(_begin, job))
            if not added and row.state != "new":
                return Enqueued(job.id, False)
            holder = await self._rows.hold(row, now) if row.holds else None
            if holder is None:
                await self.place(row, now)
                return Enqueued(job.id, added)
            await self._withdraw(row)
            answer = await self._conflict(job, holder)
            if answer is not None:
                return answer

    async def _conflict(self, job: Job, ref: JobRef) -> Enqueued | None:
        """What a job is answered whose key another one holds; None when that has gone meanwhile."""
        holder, now = await self._rows.get(ref)
        if holder is None or not holder.holds:
            return None
        if job.on_conflict == "replace":
            life = holder.life

            def think(row: Row | None, now: float) -> tuple[Row | None, tuple[Row | None, Row | None, bool | None]]:
                wanted, done = moves.replaced(row, life, job, now)
                return wanted, (row, wanted, done)

            (before, row, done), now = await self._rows.change(ref, think)
            if done is None:
                return None
            if done and row is not None:
                if row.state == "new":
                    await self.place(row, now, before)
                return Enqueued(ref.id, False)
        elif job.on_conflict == "return":
            if holder.state == "new":
                # Whoever sends it may have died over it.
                await self._later.note(ref.queue, Moment(max(holder.until, holder.due), ref.id), now)
            return Enqueued(ref.id, False)
        message = f"job {ref.id} holds the unique key {job.unique!r} of queue {job.queue!r}"
        return Enqueued(ref.id, False, Conflict(message, ref.id))

    async def place(self, row: Row, now: float, before: Row | None = None) -> None:
        """Send it, or note when it is to be sent; raises BrokerRejected when it cannot be, and is gone then.

        ``before`` is the row as it was: if a moment was noted for it, that is no more.
        """
        ref = row.ref
        if before is not None and before.state == "later":
            await self._later.forget(ref.queue, [Moment(before.due, ref.id)])
        await asyncio.gather(self._rows.list_queue(ref.queue, now), self._rows.enter("live", [row]))
        if row.due > now:
            await self._later.note(ref.queue, Moment(row.due, ref.id), now)
        else:
            try:
                await self.send(row)
            except BrokerRejected:
                await self._withdraw(row)
                await self._rows.leave("live", [row])
                if row.holds:
                    await self._rows.free(row)
                raise
        await self._rows.change(ref, lambda found, _: moves.placed(found, row.life, now))

    async def send(self, row: Row) -> None:
        """A message for it, of an id of its own: the same one again would be taken for a repetition."""
        job = row.called
        carried = replace(
            job,
            id=f"{job.id}~{row.life}.{row.sent}",
            delay=0.0,
            run_at=None,
            unique=None,
            # One that is cancelled takes no turn in its group.
            group=None if row.cancelled else job.group,
            headers={**job.headers, CARRIED: f"{row.life} {job.id}"},
        )
        (answer,) = await self._carrier.enqueue([carried])
        if answer.error is not None:
            raise answer.error

    async def _withdraw(self, row: Row) -> None:
        await self._rows.change(row.ref, lambda found, _: moves.withdrawn(found, row.life))

    async def launch(self, queue: str) -> None:
        """Send what is due by now."""
        past = await self._later.past(queue)
        done = await asyncio.gather(*(self._launch(queue, moment) for moment in past), return_exceptions=True)
        await self._later.forget(queue, [moment for moment, over in zip(past, done, strict=True) if over is True])
        for error in done:
            if isinstance(error, BaseException):
                raise error

    async def _launch(self, queue: str, moment: Moment) -> bool:
        """Whether the moment has been dealt with."""
        ref = JobRef(queue, moment.id)

        def think(row: Row | None, now: float) -> tuple[Row | None, tuple[Row | None, bool | None]]:
            wanted, mine = moves.launched(row, moment.due, now)
            return wanted, (wanted, mine)

        (row, mine), now = await self._rows.change(ref, think)
        if not mine or row is None:
            return mine is False
        try:
            await self.place(row, max(now, row.due))
        except BrokerRejected as error:
            _log.error("job %s of queue %s could not be sent when it was due: %s", ref.id, queue, error)
        return True

    async def put_off(self, row: Row, now: float) -> None:
        """See to it that another message is sent for it when it is due."""
        await self._later.note(row.called.queue, Moment(max(row.due, now), row.called.id), now)
        await self._rows.change(row.ref, lambda found, _: moves.put_off(found, row.life))


def carried_by(message: Delivery) -> tuple[str, Job]:
    """The life that a message is of, and its job; no life for one that was sent without a companion."""
    job = message.job
    headers = dict(job.headers)
    life, _, name = headers.pop(CARRIED, "").partition(" ")
    return life, replace(job, id=name, headers=headers) if life else job


def _begin(job: Job, row: Row | None, now: float) -> tuple[Row | None, tuple[Row, bool]]:
    wanted, added = moves.begun(row, job, token_hex(6), now)
    return wanted, (wanted, added)


def _turns(jobs: Sequence[Job]) -> list[list[int]]:
    """Which of them can be added side by side: those of one id or key one after the other."""
    turns: list[list[int]] = []
    last: dict[tuple[str, ...], int] = {}
    for at, job in zip(count(), jobs, strict=False):
        names = [(job.queue, "id", job.id), *([(job.queue, "key", job.unique)] if job.unique is not None else [])]
        turn = 1 + max(last.get(name, -1) for name in names)
        last.update(dict.fromkeys(names, turn))
        if turn == len(turns):
            turns.append([])
        turns[turn].append(at)
    return turns
