"""The verbs as statements, on whichever connection it is: in a transaction of their own, or in a caller's."""

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from taskq.errors import Conflict
from taskq.job import Ack, DeadLetter, Delivery, Enqueued, Job, Lease, Nack, Settlement
from taskq_postgres.lanes import Connection
from taskq_postgres.queries import Queries
from taskq_postgres.rows import Receipt, are_plain, arrays_of, deliveries_of, new_token, receipts_of, refusal, shortened

Arrays: TypeAlias = Sequence[Sequence[object] | None]
Refused: TypeAlias = tuple[int, str, bool]
"""Of a job that was not added: its place from 1, who holds its id or key, whether that is a conflict."""


class Asked(Protocol):
    """A connection, whichever library opened it."""

    def fetch(self, query: str, *arguments: object) -> Awaitable[Sequence[Any]]:
        """The rows of a statement, by column name."""
        ...


class Offer(Struct, frozen=True):
    """A job may be handed to a fetch, later and by a message."""

    listener: int
    """Who hears for it."""
    heard: int | None
    """The token of the last job that came so."""
    waits: bool
    """If there is none now. Otherwise only what was handed over unheard is asked for."""


NO_OFFER = (None, None, False)


class Fetched(Struct, frozen=True):
    """What a fetch brought."""

    deliveries: list[Delivery]
    pause: float | None = None
    """Nothing came: in so many seconds something may; None when nothing is in sight."""
    passed: int = 0
    """Entries of the lines that were read in vain, when they were many."""
    marks: str | None = None
    """Where to enter the lines next time."""
    handed: int | None = None
    """The deliveries are no more than one that was handed over before, by this token; it may be over."""


class Verbs(Struct, frozen=True):
    """One statement each."""

    sql: Queries
    max_size: int
    dedup_window: float

    async def enqueue(self, connection: Asked, jobs: Sequence[Job], *, tells: bool) -> list[Enqueued]:
        """Add the jobs in the connection's transaction; with ``tells`` its commit tells those who wait."""

        async def add(arrays: Arrays) -> Sequence[Refused]:
            rows = await connection.fetch(self.sql.enqueue, *arrays, tells)
            return [(row["place"], row["holder"], row["conflict"]) for row in rows]

        return await self._add(jobs, add)

    async def enqueue_ahead(self, connection: Connection, jobs: Sequence[Job]) -> list[Enqueued]:
        """Add the jobs in transactions of their own: others see them, and are told, before they are on disk."""

        async def add(arrays: Arrays) -> Sequence[Refused]:
            (row,) = await connection.fetch(self.sql.enqueue_ahead, *arrays)
            return list(zip(*(column or () for column in row), strict=True))

        return await self._add(jobs, add)

    async def _add(self, jobs: Sequence[Job], add: Callable[[Arrays], Awaitable[Sequence[Refused]]]) -> list[Enqueued]:
        answers = [Enqueued(job.id, True) for job in jobs]
        taken: list[int] = []
        plain = are_plain(jobs)
        for number, job in enumerate(jobs):
            refused = refusal(job, self.max_size, plain=plain)
            if refused is None:
                taken.append(number)
            else:
                answers[number] = Enqueued(job.id, False, refused)
        if taken:
            adding = jobs if len(taken) == len(jobs) else [jobs[place] for place in taken]
            for given, holder, conflict in await add(arrays_of(adding, plain=plain)):
                place = taken[given - 1]
                answers[place] = Enqueued(holder, False, _conflict(jobs[place], holder) if conflict else None)
        return answers

    async def fetch(
        self,
        connection: Connection,
        queues: Sequence[str],
        limit: int,
        lease: float,
        marks: str | None,
        offer: Offer | None = None,
    ) -> Fetched:
        token = new_token()
        offered = NO_OFFER if offer is None else (offer.listener, offer.heard, offer.waits)
        rows = await connection.fetch(self.sql.fetch, queues, limit, lease, token, marks, *offered)
        if not rows or rows[-1]["id"] is not None:
            return Fetched(deliveries_of(rows, token))
        last = rows.pop()
        due, handed = last["due"], last["handed"]
        pause = None if due is None else due - last["now"]
        deliveries = deliveries_of(rows, token if handed is None else handed)
        return Fetched(deliveries, pause, last["passed"] or 0, last["next_marks"], handed)

    async def settle(
        self, connection: Asked, settlements: Sequence[Settlement], *, tells: bool
    ) -> list[Receipt | None]:
        """The receipt of each that was settled; None where it was void."""
        ends = Ends(settlements)
        if not ends.receipts:
            return [None] * len(settlements)
        (row,) = await connection.fetch(self.sql.settle, *ends.arrays(self.dedup_window), tells)
        return ends.settled(row["places"] or ())

    async def discard_and_settle(
        self, connection: Asked, key: str, members: Sequence[str], settlements: Sequence[Settlement]
    ) -> list[Receipt | None] | None:
        """The same in one transaction with the discarding; None when no member is left, and nothing was settled."""
        ends = Ends(settlements)
        arrays = ends.arrays(self.dedup_window)
        (row,) = await connection.fetch(self.sql.discard_and_settle, key, members, *arrays)
        return None if row["places"] is None else ends.settled(row["places"])

    async def extend(self, connection: Connection, receipts: Sequence[str], lease: float) -> list[Lease]:
        said = receipts_of(receipts)
        known = sorted({receipt for receipt in said if receipt is not None})
        if not known:
            return [Lease.LOST] * len(receipts)
        rows = await connection.fetch(self.sql.extend, *_columns(known), _grouped(known), lease)
        held: dict[Receipt, Lease] = {}
        for row in rows:
            place: int = row["place"]
            held[known[place - 1]] = Lease.CANCELLED if row["cancelled"] else Lease.HELD
        return [Lease.LOST if receipt is None else held.get(receipt, Lease.LOST) for receipt in said]


class Ends:
    """Settlements as arrays: rows are locked in one order, whoever comes, and a receipt settles once in a call."""

    def __init__(self, settlements: Sequence[Settlement]) -> None:
        self._settlements = settlements
        self._first: dict[Receipt, int] = {}
        for number, receipt in enumerate(receipts_of(settlement.receipt for settlement in settlements)):
            if receipt is not None:
                self._first.setdefault(receipt, number)
        self.receipts = sorted(self._first)

    def arrays(self, dedup_window: float) -> tuple[object, ...]:
        """What ``settle`` takes of them."""
        chosen = [self._settlements[self._first[receipt]] for receipt in self.receipts]
        plain = dedup_window == 0 and all(
            isinstance(one, Ack) and (one.outcome is None or one.keep <= 0) for one in chosen
        )
        endings = [None] * 4 if plain else _endings(chosen)
        return (*_columns(self.receipts), *endings, _grouped(self.receipts), dedup_window)

    def settled(self, places: Sequence[int]) -> list[Receipt | None]:
        """The receipt of each settlement, now that those in these places, from 1, were settled; None where not."""
        answers: list[Receipt | None] = [None] * len(self._settlements)
        for place in places:
            receipt = self.receipts[place - 1]
            answers[self._first[receipt]] = receipt
        return answers


def _columns(receipts: Sequence[Receipt]) -> tuple[list[str], list[str], list[int]]:
    queues, tokens = [one.queue for one in receipts], [one.token for one in receipts]
    return shortened(queues), [one.id for one in receipts], shortened(tokens)


def _grouped(receipts: Sequence[Receipt]) -> list[str] | None:
    return sorted({one.queue for one in receipts if one.grouped}) or None


def _endings(
    settlements: Sequence[Settlement],
) -> tuple[list[str], list[bytes | None], list[float | None], list[bool]]:
    """Kinds, payloads, seconds and whether they count, as ``settle`` takes them."""
    endings = [_ending(settlement) for settlement in settlements]
    return (
        [one[0] for one in endings],
        [one[1] for one in endings],
        [one[2] for one in endings],
        [one[3] for one in endings],
    )


def _ending(settlement: Settlement) -> tuple[str, bytes | None, float | None, bool]:
    match settlement:
        case Ack(outcome=outcome, keep=keep):
            return "ack", outcome, keep, False
        case Nack(error=error, after=after, counted=counted):
            return "nack", error, after, counted
        case DeadLetter(outcome=outcome, keep=keep):
            return "dead", outcome, None if keep == inf else keep, False


def _conflict(job: Job, holder: str) -> Conflict:
    return Conflict(f"job {holder} holds the unique key {job.unique!r} of queue {job.queue!r}", holder)
