"""Sending: the row is written first, then its key is held, then the message goes, and that it went is written last.

A crash in between leaves a row that says so, and whoever comes across it goes on from there.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from secrets import token_hex

from msgspec.structs import replace

from taskq.broker import Broker
from taskq.companion import moves
from taskq.companion.groups import Groups
from taskq.companion.later import Later, Moment
from taskq.companion.row import Row
from taskq.companion.rows import Rows
from taskq.errors import BrokerError, BrokerRejected, BrokerUnavailable, Conflict, PayloadTooLarge
from taskq.job import Delivery, Enqueued, Job, JobRef

_log = logging.getLogger("taskq")

CARRIED = "taskq-carried"
"""The header of a message that a companion sent: which life of which id it is of."""
DIRECT = "taskq-direct"
"""The header of one that was sent while the store was away."""
GROUP = "taskq-group"
"""The header with its group, of which the carrier is to know nothing: it would keep its places in its own way."""


class Sender:
    """Brings jobs into the store and their messages on their way."""

    def __init__(self, rows: Rows, later: Later, carrier: Broker) -> None:
        self._rows = rows
        self._later = later
        self._groups = Groups(rows)
        self._carrier = carrier
        self._turns = count()

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        """As :meth:`Broker.enqueue`."""
        answers: dict[int, Enqueued] = {}
        lives = [token_hex(6) for _ in jobs]
        now = await self._clock() if any(job.group is not None for job in jobs) else 0.0
        for together in _turns(jobs):
            adding = [self._add(jobs[at], lives[at], moves.turn(now, next(self._turns))) for at in together]
            added = await asyncio.gather(*adding, return_exceptions=True)
            for at, answer in zip(together, added, strict=True):
                # What the carrier refused is an answer; a refusal of the store concerns them all.
                if isinstance(answer, BrokerUnavailable):
                    answers[at] = Enqueued(jobs[at].id, False, answer)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    answers[at] = answer
        for at, error in (await self._fill(jobs)).items():
            answers[at] = Enqueued(jobs[at].id, False, error)
        answers |= await self._send_directly(jobs, lives, answers)
        unsent = [at for at, answer in answers.items() if isinstance(answer.error, BrokerUnavailable)]
        # Should the store be away as well, they are counted until it forgets them.
        await asyncio.gather(*(self._forsake(jobs[at], lives[at]) for at in unsent), return_exceptions=True)
        found = [answers[at] for at in range(len(jobs))]
        lost = [answer.error for answer in found if isinstance(answer.error, BrokerUnavailable)]
        if lost and len(lost) == len(jobs):
            raise lost[0]
        return found

    async def _fill(self, jobs: Sequence[Job]) -> dict[int, BrokerError]:
        """Give the free places of the groups of these; which of them could not be sent."""
        failed: dict[int, BrokerError] = {}
        groups = {(job.queue, job.group): job for job in jobs if job.group is not None}
        found = await asyncio.gather(*map(self.give, groups.values()), return_exceptions=True)
        for group, refused in zip(groups, found, strict=True):
            if not isinstance(refused, BrokerError | dict):
                raise refused
            if not refused:
                continue
            for at, job in enumerate(jobs):
                error = refused if isinstance(refused, BrokerError) else refused.get(job.id)
                if error is not None and (job.queue, job.group) == group:
                    failed[at] = error
        return failed

    async def _clock(self) -> float:
        """The store's; while that is away, any will do."""
        try:
            return await self._rows.clock()
        except BrokerUnavailable:
            return 0.0

    async def _send_directly(
        self, jobs: Sequence[Job], lives: Sequence[str], answers: Mapping[int, Enqueued]
    ) -> dict[int, Enqueued]:
        """Send those without a row for which the store could not be reached; of a unique key it alone can tell."""
        away = [at for at, answer in answers.items() if isinstance(answer.error, BrokerUnavailable)]
        direct = [at for at in away if jobs[at].unique is None]
        if not direct:
            return {}
        messages = [_message(jobs[at], lives[at], "direct", {DIRECT: "1"}) for at in direct]
        try:
            sent = await self._carrier.enqueue(messages)
        except BrokerUnavailable:
            return {}
        return {at: Enqueued(jobs[at].id, one.added, one.error) for at, one in zip(direct, sent, strict=True)}

    async def _forsake(self, job: Job, life: str) -> None:
        """It could not be sent, and nobody may come to do it: it is gone, or, if it holds a key, sent later."""
        row, now = await self._rows.get(JobRef(job.queue, job.id))
        if row is None or row.life != life or row.state != "new":
            return
        if row.holds:
            await self._later.note(job.queue, Moment(max(row.until, row.due), job.id), now)
        else:
            await self._withdraw(row)
            await self._rows.leave("live", [row])

    async def _add(self, job: Job, life: str, turn: str) -> Enqueued:
        if len(job.body) > self._carrier.traits.max_size:
            most = self._carrier.traits.max_size
            return Enqueued(job.id, False, PayloadTooLarge(f"job {job.id} has {len(job.body)} bytes; {most} are taken"))
        while True:
            (row, added), now = await self._rows.change(JobRef(job.queue, job.id), partial(_begin, job, life, turn))
            if not added and row.state not in ("new", "waiting"):
                return Enqueued(job.id, False)
            holder = await self._rows.hold(row, now) if row.holds else None
            if holder is None:
                refused = await self._place(row, now)
                return Enqueued(job.id, added and refused is None, refused)
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
                try:
                    if row.state == "new":
                        await self.place(row, now, before)
                except BrokerRejected as error:
                    return Enqueued(ref.id, False, error)
                return Enqueued(ref.id, False)
        elif job.on_conflict == "return":
            if holder.state == "new":
                # Whoever sends it may have died over it.
                await self._later.note(ref.queue, Moment(max(holder.until, holder.due), ref.id), now)
            return Enqueued(ref.id, False)
        message = f"job {ref.id} holds the unique key {job.unique!r} of queue {job.queue!r}"
        return Enqueued(ref.id, False, Conflict(message, ref.id))

    async def place(self, row: Row, now: float, before: Row | None = None) -> None:
        """Send it, or note when it is to be sent, or that it waits for a place in its group.

        ``before`` is the row as it was: if a moment was noted for it, that is no more. Raises BrokerRejected when it
        cannot be sent, and is gone then.
        """
        refused = await self._place(row, now, before)
        if refused is not None:
            raise refused
        if row.waits:
            await self.give(row.called)

    async def _place(self, row: Row, now: float, before: Row | None = None) -> BrokerRejected | None:
        ref = row.ref
        if before is not None and before.state == "later":
            await self._later.forget(ref.queue, [Moment(before.due, ref.id)])
        await asyncio.gather(self._rows.list_queue(ref.queue, now), self._rows.enter("live", [row]))
        if row.due > now:
            await self._later.note(ref.queue, Moment(row.due, ref.id), now)
        elif row.waits:
            await self._groups.wait(row)
        else:
            return await self._send_or_withdraw(row, now)
        await self._rows.change(ref, lambda found, _: moves.placed(found, row.life, now))
        return None

    async def give(self, job: Job) -> dict[str, BrokerRejected]:
        """Give the free places of this job's group, and send those that got them; which of them were refused."""
        refused: dict[str, BrokerRejected] = {}
        while True:
            given = await self._groups.give(job)
            for row in given.unsent:
                # Whoever sends it may have died over it.
                await self._later.note(job.queue, Moment(max(row.until, row.due), row.called.id), given.now)
            sent = await asyncio.gather(*(self._send_or_withdraw(row, given.now) for row in given.fresh))
            failed = {row.called.id: error for row, error in zip(given.fresh, sent, strict=True) if error is not None}
            if not failed:
                return refused
            for name, error in failed.items():
                _log.error("job %s of queue %s could not be sent in its turn: %s", name, job.queue, error)
            refused |= failed

    async def _send_or_withdraw(self, row: Row, now: float) -> BrokerRejected | None:
        try:
            await self.send(row)
        except BrokerRejected as error:
            await self._withdraw(row)
            await self._rows.leave("live", [row])
            if row.holds:
                await self._rows.free(row)
            return error
        await self._rows.change(row.ref, lambda found, _: moves.placed(found, row.life, now))
        return None

    async def send(self, row: Row) -> None:
        """A message for it, of an id of its own: the same one again would be taken for a repetition."""
        job = replace(row.called, delay=0.0, run_at=None)
        carried = _message(job, row.life, str(row.sent))
        (answer,) = await self._carrier.enqueue([carried])
        if answer.error is not None:
            raise answer.error

    async def _withdraw(self, row: Row) -> None:
        await self._rows.change(row.ref, lambda found, _: moves.withdrawn(found, row.life))

    async def launch(self, queue: str) -> None:
        """Send what is due by now."""
        past = await self._later.past(queue)
        done = await asyncio.gather(*(self._launch(queue, moment) for moment in past), return_exceptions=True)
        groups = {job.group: job for job in done if isinstance(job, Job) and job.group is not None}
        for job in groups.values():
            await self.give(job)
        over = [moment for moment, one in zip(past, done, strict=True) if one is True or isinstance(one, Job)]
        await self._later.forget(queue, over)
        for error in done:
            if isinstance(error, BaseException):
                raise error

    async def _launch(self, queue: str, moment: Moment) -> Job | bool:
        """The job that was launched, or whether there was none to launch: False when somebody else is at it."""
        ref = JobRef(queue, moment.id)

        def think(row: Row | None, now: float) -> tuple[Row | None, tuple[Row | None, bool | None]]:
            wanted, mine = moves.launched(row, moment.due, now)
            return wanted, (wanted, mine)

        (row, mine), now = await self._rows.change(ref, think)
        if not mine or row is None:
            return mine is False
        refused = await self._place(row, max(now, row.due))
        if refused is not None:
            _log.error("job %s of queue %s could not be sent when it was due: %s", ref.id, queue, refused)
        return row.called

    async def put_off(self, row: Row, now: float) -> None:
        """See to it that another message is sent for it when it is due."""
        await self._later.note(row.called.queue, Moment(max(row.due, now), row.called.id), now)
        await self._rows.change(row.ref, lambda found, _: moves.put_off(found, row.life))


def _message(job: Job, life: str, number: str, headers: Mapping[str, str] | None = None) -> Job:
    """What the carrier gets of a job."""
    said = {**job.headers, CARRIED: f"{life} {job.id}", **(headers or {})}
    if job.group is not None:
        said[GROUP] = job.group
    return replace(job, id=f"{job.id}~{life}.{number}", unique=None, group=None, headers=said)


def carried_by(message: Delivery) -> moves.Carried:
    """The job of a message, and which life it is of."""
    job = message.job
    headers = dict(job.headers)
    if CARRIED not in headers:
        return moves.Carried(job)
    life, _, name = headers.pop(CARRIED).partition(" ")
    direct = headers.pop(DIRECT, None) is not None
    return moves.Carried(replace(job, id=name, group=headers.pop(GROUP, None), headers=headers), life, direct)


def _begin(job: Job, life: str, turn: str, row: Row | None, now: float) -> tuple[Row | None, tuple[Row, bool]]:
    wanted, added = moves.begun(row, job, life, turn, now)
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
