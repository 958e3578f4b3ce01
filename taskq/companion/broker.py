"""The four verbs: the store says what is true, the carrier brings word of it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import starmap
from math import inf
from secrets import token_hex

from msgspec import Struct

from taskq.broker import Broker, Traits
from taskq.companion import moves
from taskq.companion.later import Later
from taskq.companion.moves import Drop, End, Hide, Wait
from taskq.companion.row import Row, time_to_live
from taskq.companion.rows import Rows
from taskq.companion.sender import Sender, carried_by
from taskq.errors import BrokerError
from taskq.events import JobRepeated
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, JobRef, Lease, Nack, Settlement

_LOOK = 0.5
"""Seconds between two looks at what has become due, unless the next moment is known."""
_HIDDEN = 60.0
"""Seconds for which a message is hidden rather than given up: those hidden are leased, and SQS limits their number."""
_WORN = 500
"""Deliveries of one message, after which it is given up for a new one: at 1,000 SQS sets it aside."""

Notify = Callable[[JobRepeated], None]


class Leased(Struct, frozen=True):
    """What a message has leased."""

    row: Row
    now: float
    unheard_of: bool
    """Nothing but the message told of it so far."""


class Receipt(Struct, frozen=True):
    """What a receipt says: short, for the rest is in the store."""

    nonce: str
    ref: JobRef

    def __str__(self) -> str:
        return f"{self.nonce} {self.ref.queue} {self.ref.id}"


def read_receipt(text: str) -> Receipt | None:
    """None for what never was one."""
    parts = text.split(" ", 2)
    return Receipt(parts[0], JobRef(parts[1], parts[2])) if len(parts) == 3 else None


class CompanionBroker:
    """Jobs whose messages one broker carries, and of which a store knows the rest."""

    def __init__(self, carrier: Broker, rows: Rows, later: Later, traits: Traits, notify: Notify) -> None:
        self._carrier = carrier
        self._rows = rows
        self._later = later
        self._traits = traits
        self._notify = notify
        self.sender = Sender(rows, later, carrier)
        self._looked: dict[str, float] = {}
        self._returns: set[asyncio.Task[None]] = set()
        self.roused = 0
        """How often waits were to end: one that began before the last time has to."""

    @property
    def traits(self) -> Traits:
        return self._traits

    async def enqueue(self, jobs: Sequence[Job]) -> list[Enqueued]:
        return await self.sender.enqueue(jobs)

    async def fetch(self, queues: Sequence[str], limit: int, *, lease: float, wait: float) -> list[Delivery]:
        if limit <= 0 or not queues:
            return []
        loop = asyncio.get_running_loop()
        until, roused = loop.time() + wait, self.roused
        while True:
            ahead = min(await asyncio.gather(*(self._launch(queue) for queue in queues)))
            left = max(0.0, until - loop.time())
            messages = await self._carrier.fetch(queues, limit, lease=lease, wait=min(left, ahead))
            taken = await self._admit(messages, lease) if messages else []
            if taken or loop.time() >= until or self.roused != roused:
                return taken

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        receipts = [read_receipt(settlement.receipt) for settlement in settlements]
        held: dict[Receipt, int] = {}
        for at, receipt in enumerate(receipts):
            if receipt is not None:
                held.setdefault(receipt, at)
        if settlements and not held:
            await ping(self._rows)
        ends = await asyncio.gather(
            *(self._end(receipt, settlements[at]) for receipt, at in held.items()), return_exceptions=True
        )
        answers, done = [False] * len(settlements), list[End]()
        for at, end in zip(held.values(), ends, strict=True):
            if isinstance(end, End):
                answers[at] = True
                done.append(end)
        # What is written down counts, whatever becomes of the messages: one that stays is one too many later.
        with suppress(BrokerError):
            await self._after(done)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return answers

    async def extend(self, receipts: Sequence[str], lease: float) -> list[Lease]:
        return await extend(self._rows, self._carrier.extend, receipts, lease)

    async def close(self) -> None:
        """Give back what nobody got."""
        if self._returns:
            await asyncio.wait(self._returns)

    # Steps

    async def _launch(self, queue: str) -> float:
        """Send what is due, if it is time to look; seconds until it is again."""
        loop = asyncio.get_running_loop()
        ahead = self._ahead(queue, loop.time())
        if ahead > 0:
            return ahead
        self._looked[queue] = loop.time()
        await self.sender.launch(queue)
        return max(self._ahead(queue, loop.time()), 0.001)

    def _ahead(self, queue: str, now: float) -> float:
        return min(self._looked.get(queue, -inf) + _LOOK, self._later.next_moment(queue)) - now

    async def _admit(self, messages: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Those that may be run now, in a task of its own: what is leased for a caller who has gone is given back."""
        admitting = asyncio.get_running_loop().create_task(self._admitted(messages, lease))
        try:
            leased = await asyncio.shield(admitting)
        except asyncio.CancelledError:
            returning = asyncio.get_running_loop().create_task(self._give_back(admitting))
            self._returns.add(returning)
            returning.add_done_callback(self._returns.discard)
            raise
        return [_delivery(one.row, one.now) for one in leased]

    async def _admitted(self, messages: Sequence[Delivery], lease: float) -> list[Leased]:
        found = await asyncio.gather(*(self._judge(message, lease) for message in messages), return_exceptions=True)
        leased = [one for one in found if isinstance(one, Leased)]
        errors = [one for one in found if isinstance(one, BaseException)]
        if errors:
            # Who comes when the store is back is not to wait for a lease that nobody has.
            pairs = zip(messages, found, strict=True)
            unjudged = [Nack(message.receipt, 0.0, counted=False) for message, one in pairs if one in errors]
            with suppress(BrokerError):
                await self._carrier.settle(unjudged)
        if errors and not leased:
            raise errors[0]
        await self._rows.enter("leased", (one.row for one in leased), lease)
        unheard_of = [one for one in leased if one.unheard_of]
        await self._rows.enter("live", (one.row for one in unheard_of))
        for one in unheard_of:
            await self._rows.list_queue(one.row.called.queue, one.now)
        return leased

    async def _judge(self, message: Delivery, lease: float) -> Leased | None:
        """The row that this message leases; without one it is put away or off."""
        carried = carried_by(message)
        job, nonce = carried.job, token_hex(8)

        def think(row: Row | None, now: float) -> tuple[Row | None, tuple[Row | None, moves.Verdict, bool]]:
            wanted, verdict = moves.admitted(row, message, carried, lease, nonce, now)
            return wanted, (wanted, verdict, row is None or not row.live)

        (row, verdict, unheard_of), now = await self._rows.change(JobRef(job.queue, job.id), think)
        match verdict:
            case Row():
                if verdict.called.unique is not None and verdict.called.unique_until == "start":
                    await self._rows.free(verdict)
                return Leased(verdict, now, unheard_of)
            case Drop():
                self._tell(message, job)
                if row is None or row.life != carried.life or not row.live:
                    # Whoever ended it may have died before it was struck off.
                    await self._rows.leave("live", [Row(life=carried.life, state="ended", job=job)])
                if row is not None and row.life == carried.life and row.state == "dead":
                    # Or before it was noted.
                    await self._rows.enter("dead", [row], time_to_live(row, now))
                if job.group is not None:
                    # Whoever ended it may have died before its place went to the next.
                    await self.sender.give(job)
                await self._carrier.settle([Ack(message.receipt)])
            case Wait():
                assert row is not None, "moves.admitted() answers it"  # noqa: S101
                await self.sender.place(row, now)
                await self._carrier.settle([Ack(message.receipt)])
            case Hide(seconds, copy):
                if copy:
                    self._tell(message, job)
                await self._hide(row, message.receipt, message.fence, seconds, now)
        return None

    async def _hide(self, row: Row | None, receipt: str, deliveries: int, seconds: float, now: float) -> None:
        """Let the message come again then; or, if that is far off, something in its place."""
        if row is None:
            await self._carrier.settle([Nack(receipt, seconds, counted=False)])
            return
        if row.state == "sent" and (seconds > _HIDDEN or deliveries >= _WORN):
            await self.sender.put_off(row, now)
            await self._carrier.settle([Ack(receipt)])
            return
        (answer,) = await self._carrier.extend([receipt], min(seconds, self._carrier.traits.max_lease))
        if answer is Lease.LOST and row.state == "sent":
            await self.sender.put_off(row, now)

    def _tell(self, message: Delivery, job: Job) -> None:
        self._notify(JobRepeated(id=job.id, task=job.task, queue=job.queue, attempt=message.attempt))

    async def _give_back(self, admitting: asyncio.Task[list[Leased]]) -> None:
        with suppress(BrokerError):
            leased = [one.row for one in await admitting]
            for row in leased:
                await self._rows.change(row.ref, partial(_unseen, row))
            await self._carrier.extend([row.carrier for row in leased], 0.0)

    async def _end(self, receipt: Receipt, settlement: Settlement) -> End | None:
        nonce = receipt.nonce
        end, _ = await self._rows.change(receipt.ref, lambda row, now: moves.settled(row, nonce, settlement, now))
        return end

    async def _after(self, ends: Sequence[End]) -> None:
        """What follows from ends that are written down."""
        over = [end for end in ends if not isinstance(end.settlement, Nack)]
        dead = Counter(end.after.called.queue for end in over if isinstance(end.settlement, DeadLetter))
        steps: list[Awaitable[object]] = [*starmap(self._rows.count, dead.items())]
        if over:
            steps += map(self._strike_off, _by_group(over))
        steps.append(self._rows.leave("leased", (end.before for end in ends)))
        for end in ends:
            before, after = end.before, end.after
            if isinstance(end.settlement, Nack):
                lost_place = before.place and not after.place
                hiding = partial(self._hide, after, before.carrier, before.worn, end.settlement.after, end.now)
                steps.append(self._to_the_end(end) if lost_place else hiding())
            elif before.holds:
                steps.append(self._rows.hold(after, end.now) if after.holds else self._rows.free(before))
        for failed in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(failed, BaseException):
                raise failed

    async def _to_the_end(self, end: End) -> None:
        """It waits for its moment, and then for a place again."""
        await self.sender.put_off(end.after, end.now)
        await self._let_go([end])

    async def _strike_off(self, ends: Sequence[End]) -> None:
        """They are no longer live, but perhaps dead letters; the message reminds of that, too, until it is deleted."""
        dead = [end for end in ends if isinstance(end.settlement, DeadLetter)]
        await asyncio.gather(
            self._rows.leave("live", (end.before for end in ends)),
            *(self._rows.enter("dead", [end.after], time_to_live(end.after, end.now)) for end in dead),
        )
        await self._let_go(ends)

    async def _let_go(self, ends: Sequence[End]) -> None:
        """Delete their messages; that of a group's job after its place has gone to the next: until then it reminds."""
        job = ends[0].before.called
        if job.group is not None:
            await self.sender.give(job)
        await self._carrier.settle([Ack(end.before.carrier) for end in ends])


async def extend(
    rows: Rows, carry: Callable[[Sequence[str], float], Awaitable[object]], receipts: Sequence[str], lease: float
) -> list[Lease]:
    """The store's answer is the one that counts; a message that comes because it was not extended is hidden again."""
    held = {text: receipt for text in receipts if (receipt := read_receipt(text)) is not None}
    if receipts and not held:
        await ping(rows)

    async def one(receipt: Receipt) -> tuple[Lease, Row | None]:
        answer, _ = await rows.change(receipt.ref, lambda row, now: moves.extended(row, receipt.nonce, lease, now))
        return answer

    answers = dict(zip(held, await asyncio.gather(*map(one, held.values())), strict=True))
    leased = [row for _, row in answers.values() if row is not None]
    if leased:
        await rows.enter("leased", leased, max(lease, 0.001))
        with suppress(BrokerError):
            await carry([row.carrier for row in leased], lease)
    return [answers[text][0] if text in answers else Lease.LOST for text in receipts]


async def ping(rows: Rows) -> None:
    """Raises BrokerError when the store cannot be reached: to call receipts void meanwhile would be a guess."""
    await rows.store.swap("companion:ping", None, None)


def _by_group(ends: Sequence[End]) -> list[list[End]]:
    """Those of no group together, too."""
    groups: dict[tuple[str, str | None], list[End]] = {}
    for end in ends:
        job = end.before.called
        groups.setdefault(("" if job.group is None else job.queue, job.group), []).append(end)
    return list(groups.values())


def _unseen(leased: Row, row: Row | None, _now: float) -> tuple[Row | None, bool]:
    return moves.unseen(row, leased)


def _delivery(row: Row, now: float) -> Delivery:
    return Delivery(
        job=row.called,
        attempt=row.attempt,
        losses=row.losses,
        fence=row.fence,
        receipt=str(Receipt(row.nonce, row.ref)),
        now=now,
        due=row.due,
        expires_at=row.expires_at,
        cancelled=row.cancelled,
        error=row.error,
    )
