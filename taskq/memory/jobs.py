"""Every job of a memory backend and the moves between its states: no clock, no lock, no waiting.

Moments are the event loop's; ``epoch`` added to one gives seconds since the epoch.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from math import inf
from secrets import token_hex

from taskq.errors import Conflict, PayloadTooLarge
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, Lease, Nack, Settlement, State
from taskq.memory.groups import Groups
from taskq.memory.ranks import K, Ranks
from taskq.memory.row import Ref, Row


class Jobs:
    """The state behind one memory backend."""

    def __init__(self, *, epoch: float, max_size: int, dedup_window: float) -> None:
        self.epoch = epoch
        self.live: dict[Ref, Row] = {}
        self.dead: dict[Ref, Row] = {}
        self.outcomes: dict[Ref, bytes] = {}
        self.lapsed: Counter[str] = Counter()
        """Dead letters of each queue whose time was over."""
        self.ended: Ranks[Ref, float] = Ranks()
        """Ids inside their dedup window."""
        self.keys: dict[Ref, Row] = {}
        """Who holds a unique key, by queue and key."""
        self._max_size = max_size
        self.dedup_window = dedup_window
        self._receipts: dict[str, Row] = {}
        # Partly random, so that a receipt of an earlier life of this backend can never be one of this life.
        self._prefix = token_hex(8) + "-"
        self._serial = count(1)
        self._fence = count(1)
        self._alarms: Ranks[Row, float] = Ranks()
        """When a later job becomes due, and when a lease ends."""
        self._dead_ends: Ranks[Ref, float] = Ranks()
        self._outcome_ends: Ranks[Ref, float] = Ranks()
        self._soonest = inf
        """No moment ahead is before this one."""
        self._groups = Groups(self._serial)

    # Moves

    def enqueue(self, job: Job, now: float) -> Enqueued:
        if (refused := self.too_large(job)) is not None:
            return refused
        ref = (job.queue, job.id)
        if self.knows(ref):
            return Enqueued(job.id, False)
        if job.unique is not None and (holder := self.holder(job.queue, job.unique, now)) is not None:
            answer = deferring(job, holder)
            if job.on_conflict == "replace" and answer.error is None:
                self._replace(holder, job, now)
            return answer
        row = Row(job, next(self._serial), self._due(job, now))
        if job.expires_in is not None:
            row.expires_at = row.due + job.expires_in
        self.live[ref] = row
        self._forget_outcome(ref)
        if job.unique is not None:
            until = job.unique_until
            row.key_until = inf if isinstance(until, str) else now + until
            self.keys[job.queue, job.unique] = row
        self._schedule(row, now)
        return Enqueued(job.id, True)

    def lease(self, queues: Sequence[str], limit: int, lease: float, now: float) -> list[Delivery]:
        self.advance(now)
        taken: list[Delivery] = []
        for queue in queues:
            while len(taken) < limit and (row := self._groups.pop(queue, now)) is not None:
                taken.append(self._deliver(row, now, lease))
        return taken

    def settle(self, settlement: Settlement, now: float) -> Row | None:
        """The row that was settled; None where the receipt was void."""
        row = self._receipts.pop(settlement.receipt, None)
        if row is None:
            return None
        row.receipt, row.until = None, -inf
        self._withdraw(row, now)
        match settlement:
            case Ack(outcome=outcome, keep=keep):
                self._end(row, now)
                self._release_key(row)
                if outcome is not None and keep > 0:
                    self._keep(row.ref, outcome, now + keep)
            case Nack(after=after, counted=counted, error=error):
                row.attempt += counted
                row.error = row.error if error is None else error
                row.due = now + after
                if row.job.group_limit > 1:
                    self._groups.release(row, now)
                self._schedule(row, now)
            case DeadLetter(outcome=outcome, keep=keep):
                self._end(row, now)
                if row.job.unique_until != "success":
                    self._release_key(row)
                row.outcome, row.due = outcome, now
                self.dead[row.ref] = row
                self._at(self._dead_ends, row.ref, now + keep)
        return row

    def extend(self, receipt: str, lease: float, now: float) -> Lease:
        self.advance(now)
        row = self._receipts.get(receipt)
        if row is None or not self._groups.retake(row, now):
            return Lease.LOST
        row.until = now + lease
        self._at(self._alarms, row, row.until)
        return Lease.CANCELLED if row.cancelled else Lease.HELD

    def give_back(self, receipts: Sequence[str], now: float) -> None:
        """Undo leases that never reached their caller: no end, no loss."""
        for receipt in receipts:
            if (row := self._receipts.get(receipt)) is not None:
                due = row.due
                self.settle(Nack(receipt, inf, counted=False), now)
                self._withdraw(row, now)
                row.due = due
                self._schedule(row, now)

    def cancel(self, ref: Ref, now: float) -> bool:
        row = self.live.get(ref)
        if row is None:
            return False
        row.cancelled = True
        if row.until <= now:
            self._withdraw(row, now)
            row.due = min(row.due, now)
            self._schedule(row, now)
        return True

    def revive(self, ref: Ref, now: float) -> bool | None:
        """None where no dead letter has the id; False where another job holds its key."""
        row = self.dead.get(ref)
        if row is None:
            return None
        key = row.job.unique
        if key is not None and row.key_until > now:
            if self.holder(row.job.queue, key, now) not in (None, row):
                return False
            self.keys[row.job.queue, key] = row
        del self.dead[ref]
        self._dead_ends.drop(ref)
        self.live[ref] = row
        row.attempt, row.losses, row.due, row.outcome, row.cancelled = 1, 0, now, None, False
        row.expires_at = None if row.job.expires_in is None else now + row.job.expires_in
        self._schedule(row, now)
        return True

    def purge(self, ref: Ref) -> bool:
        row = self.dead.pop(ref, None)
        if row is None:
            return False
        self._dead_ends.drop(ref)
        self._release_key(row)
        return True

    def advance(self, now: float) -> None:
        """Carry out what time alone brings about."""
        if now < self._soonest:
            return
        for row in self._alarms.up_to(now):
            if row.receipt is not None:
                row.due = row.until
                if row.job.group_limit > 1:
                    self._groups.release(row, now)
            self._groups.ready(row, now)
        for ref in self._outcome_ends.up_to(now):
            del self.outcomes[ref]
        for ref in list(self._dead_ends.up_to(now)):
            self.purge(ref)
            self.lapsed[ref[0]] += 1
        for _ in self.ended.up_to(now):
            pass
        firsts = (self._alarms.first(), self._outcome_ends.first(), self._dead_ends.first(), self.ended.first())
        self._soonest = min((first[0] for first in firsts if first is not None), default=inf)

    # Looking

    def next_moment(self) -> float:
        """When the next job becomes due or the next lease ends."""
        first = self._alarms.first()
        return inf if first is None else first[0]

    def too_large(self, job: Job) -> Enqueued | None:
        if len(job.body) <= self._max_size:
            return None
        error = PayloadTooLarge(f"job {job.id} has {len(job.body)} bytes; at most {self._max_size} are taken")
        return Enqueued(job.id, False, error)

    def knows(self, ref: Ref) -> bool:
        """The id is taken: by a live job, a dead letter or one that ended inside the dedup window."""
        return ref in self.live or ref in self.dead or (self.dedup_window > 0 and ref in self.ended)

    def holder(self, queue: str, key: str, now: float) -> Row | None:
        row = self.keys.get((queue, key))
        return row if row is not None and row.key_until > now else None

    def leased_by(self, receipt: str) -> Row | None:
        return self._receipts.get(receipt)

    def outcome(self, ref: Ref) -> bytes | None:
        row = self.dead.get(ref)
        return self.outcomes.get(ref) if row is None else row.outcome

    def rows(self) -> Iterator[Row]:
        yield from self.live.values()
        yield from self.dead.values()

    def state(self, row: Row, now: float) -> State:
        if row.ref in self.dead:
            return "dead"
        if row.receipt is not None and row.until > now:
            return "leased"
        return "later" if row.due > now else "ready"

    def held(self) -> dict[str, int]:
        """How much of everything is kept, by name: all zero when nothing is left of any job."""
        return {
            "live": len(self.live),
            "dead": len(self.dead) + len(self._dead_ends),
            "outcomes": len(self.outcomes) + len(self._outcome_ends),
            "ended": len(self.ended),
            "keys": len(self.keys),
            "receipts": len(self._receipts),
            "alarms": len(self._alarms),
            "groups": len(self._groups),
        }

    # Steps

    def _due(self, job: Job, now: float) -> float:
        return now + job.delay if job.run_at is None else max(now, job.run_at - self.epoch)

    def _at(self, ranks: Ranks[K, float], key: K, moment: float) -> None:
        ranks.put(key, moment)
        if moment < self._soonest:
            self._soonest = moment

    def _schedule(self, row: Row, now: float) -> None:
        if row.due > now:
            self._at(self._alarms, row, row.due)
        else:
            self._groups.ready(row, now)

    def _withdraw(self, row: Row, now: float) -> None:
        """Take the row out of the line it stands in: what has a moment ahead is in no queue's line."""
        if not self._alarms.drop(row):
            self._groups.withdraw(row, now)

    def _deliver(self, row: Row, now: float, lease: float) -> Delivery:
        if row.receipt is not None:
            row.losses += 1
            del self._receipts[row.receipt]
        if row.job.unique_until == "start":
            self._release_key(row)
        row.fence = next(self._fence)
        row.receipt = receipt = f"{self._prefix}{row.fence}"
        row.until = now + lease
        self._receipts[receipt] = row
        self._at(self._alarms, row, row.until)
        return Delivery(
            job=row.job,
            attempt=row.attempt,
            losses=row.losses,
            fence=row.fence,
            receipt=receipt,
            now=self.epoch + now,
            due=self.epoch + row.due,
            expires_at=None if row.expires_at is None else self.epoch + row.expires_at,
            cancelled=row.cancelled,
            error=row.error,
        )

    def _replace(self, holder: Row, job: Job, now: float) -> None:
        self._withdraw(holder, now)
        holder.job = holder.job.calling(job)
        holder.due = self._due(job, now)
        holder.expires_at = None if job.expires_in is None else holder.due + job.expires_in
        self._schedule(holder, now)

    def _end(self, row: Row, now: float) -> None:
        ref = row.ref
        del self.live[ref]
        if row.job.group is not None:
            self._groups.release(row, now)
        self._forget_outcome(ref)
        if self.dedup_window > 0:
            self._at(self.ended, ref, now + self.dedup_window)

    def _keep(self, ref: Ref, outcome: bytes, until: float) -> None:
        self.outcomes[ref] = outcome
        self._at(self._outcome_ends, ref, until)

    def _forget_outcome(self, ref: Ref) -> None:
        """An outcome is the last end's of its id."""
        if self.outcomes.pop(ref, None) is not None:
            self._outcome_ends.drop(ref)

    def _release_key(self, row: Row) -> None:
        key = row.job.unique
        if key is not None and self.keys.get((row.job.queue, key)) is row:
            del self.keys[row.job.queue, key]


def deferring(job: Job, holder: Row) -> Enqueued:
    """What a job is answered whose unique key another one holds."""
    # A holder with a receipt may still be settled late, and a cancelled one will not run: neither may take
    # over a call that would be lost with it.
    waiting = holder.receipt is None and not holder.cancelled and holder.outcome is None
    if job.on_conflict == "return" or (job.on_conflict == "replace" and waiting):
        return Enqueued(holder.job.id, False)
    message = f"job {holder.job.id} holds the unique key {job.unique!r} of queue {job.queue!r}"
    return Enqueued(holder.job.id, False, Conflict(message, holder.job.id))
