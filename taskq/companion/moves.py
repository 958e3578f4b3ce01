"""What happens to a row: pure functions of the row as it is and the store's clock.

Each answers the row as it is to be (None: it is to be gone; the same: nothing changes) and what its caller has to do.
"""

from math import inf

from msgspec import Struct
from msgspec.structs import replace

from taskq.companion.row import KEPT, SENDING, Row
from taskq.job import Ack, DeadLetter, Delivery, Job, Lease, Nack, Settlement

LEDGER = 3600.0
"""Seconds for which an ended job is remembered."""


# Adding


def begun(row: Row | None, job: Job, life: str, turn: str, now: float) -> tuple[Row, bool]:
    """A new life of the id; False where it is live or dead. ``turn``: in its group, unless it comes later."""
    if row is not None and row.state != "ended":
        return row, False
    due = _due(job, now)
    until = job.unique_until
    new = Row(
        life=life,
        state="new",
        job=job,
        due=due,
        until=now + SENDING,
        expires_at=None if job.expires_in is None else due + job.expires_in,
        holds=job.unique is not None,
        key_until=inf if isinstance(until, str) else now + until,
        turn="" if due > now else turn,
    )
    return new, True


def withdrawn(row: Row | None, life: str) -> tuple[Row | None, None]:
    """Gone again, as long as nobody has it."""
    return (None if row is not None and row.life == life and row.state == "new" else row), None


def placed(row: Row | None, life: str, now: float) -> tuple[Row | None, None]:
    """Known to be on its way, or noted for its moment or among those who wait."""
    if row is None or row.life != life or row.state != "new":
        return row, None
    return replace(row, state="later" if row.due > now else "waiting" if row.waits else "sent", until=0.0), None


def launched(row: Row | None, due: float, now: float) -> tuple[Row | None, bool | None]:
    """True: its moment has come, send it. None: somebody is at it. False: this was not its moment, or it is gone."""
    if row is not None and row.state == "waiting":
        return row, True
    if row is None or row.state not in ("later", "new") or row.due > due:
        return row, False
    if row.state == "new" and row.until > now:
        return row, None
    return _resent(row, now), True


def replaced(row: Row | None, life: str, job: Job, now: float) -> tuple[Row | None, bool | None]:
    """The waiting holder of a key with another call; False where it may not have one, None where it is gone."""
    if row is None or row.life != life or not row.holds:
        return row, None
    if row.cancelled or row.state in ("leased", "dead"):
        return row, False
    due = _due(job, now)
    expires_at = None if job.expires_in is None else due + job.expires_in
    # Of a message that is on its way already the moment is looked at when it comes; one that is hidden comes too late.
    anew = row.state != "sent" or row.due > now
    again = replace(row, job=row.called.calling(job), due=due, expires_at=expires_at)
    return (_resent(again, now) if anew else again), True


# Places in groups


def turn(now: float, position: int = 0) -> str:
    """What sorts the jobs of a group by their moments, and those of one moment by their positions."""
    return f"{now:017.6f}-{position:012}"


def takes_a_place(row: Row) -> bool:
    """Of one who is named as a holder: it has its place, or is about to be told of it."""
    return row.place or row.state == "waiting"


def given(waiting: Row, row: Row | None, now: float) -> tuple[Row | None, Row | None]:
    """The row with its place, to be sent; None where it waits no longer."""
    if row is None or row.life != waiting.life or row.state != "waiting":
        return row, None
    again = _resent(replace(row, place=True), now)
    return again, again


# Delivering


class Drop(Struct, frozen=True):
    """The message is one too many."""


class Hide(Struct, frozen=True):
    """Not now: should its job be needed again, it is there."""

    seconds: float
    copy: bool = False
    """Somebody has its job in hand."""


class Wait(Struct, frozen=True):
    """Its job needs a place in its group: noted for it, the message is one too many."""


Verdict = Row | Drop | Hide | Wait


class Carried(Struct, frozen=True):
    """Whose message it is."""

    job: Job
    life: str = ""
    """Empty: it was sent without a companion."""
    direct: bool = False
    """It was sent while the store was away, and may be all that is known of its job."""


def admitted(
    row: Row | None, message: Delivery, carried: Carried, lease: float, nonce: str, now: float
) -> tuple[Row | None, Verdict]:
    """What is to become of a message: the row it leases, or why it leases none."""
    life = carried.life
    if row is None or (carried.direct and row.state == "ended" and row.life != life):
        if message.due > message.now:
            return row, Hide(message.due - message.now)
        # What was ours and is unknown may have run: a task that runs at most once must not find it new.
        row = Row(
            life=life,
            state="sent",
            job=carried.job,
            due=message.due,
            attempt=message.attempt,
            losses=message.losses + bool(life and not carried.direct),
            fence=message.fence,
            expires_at=message.expires_at,
            error=message.error,
        )
    if row.life != life or not row.live or (row.state == "later" and row.due > now):
        return row, Drop()
    if row.state == "leased":
        if row.until > now:
            return row, Hide(row.until - now, copy=True)
        row = replace(row, losses=row.losses + 1, due=row.until)
    if row.due > now:
        return row, Hide(row.due - now)
    if row.waits:
        return replace(row, state="new", until=now + SENDING), Wait()
    leased = replace(
        row,
        state="leased",
        until=now + lease,
        fence=row.fence + 1,
        nonce=nonce,
        carrier=message.receipt,
        worn=message.fence,
        holds=row.holds and row.called.unique_until != "start",
    )
    return leased, leased


def unseen(row: Row | None, leased: Row) -> tuple[Row | None, bool]:
    """As if it had never been leased: nobody got this delivery."""
    if row is None or row.nonce != leased.nonce:
        return row, False
    return replace(row, state="sent", nonce="", carrier="", until=0.0), True


def put_off(row: Row | None, life: str) -> tuple[Row | None, None]:
    """Its message is given up for another one, to be sent when its moment has come."""
    if row is None or row.life != life or row.state != "sent":
        return row, None
    return replace(row, state="later"), None


# Ending


class End(Struct, frozen=True):
    """A settlement that counted."""

    settlement: Settlement
    before: Row
    after: Row
    now: float


def settled(row: Row | None, nonce: str, settlement: Settlement, now: float) -> tuple[Row | None, End | None]:
    """What follows, if the receipt was good."""
    if row is None or row.state != "leased" or row.nonce != nonce:
        return row, None
    after = _settled(row, settlement, now)
    return after, End(settlement, row, after, now)


def _settled(row: Row, settlement: Settlement, now: float) -> Row:
    match settlement:
        case Ack(outcome=outcome, keep=keep):
            kept = now + keep if outcome is not None else now
            return _ended(row, outcome if keep > 0 else None, kept, now)
        case Nack(after=after, counted=counted, error=error):
            # The one place of a group is kept: its jobs run in order.
            keeps = row.place and row.called.group_limit == 1
            return replace(
                row,
                state="sent",
                place=keeps,
                turn=row.turn if keeps else "",
                due=now + after,
                until=0.0,
                nonce="",
                carrier="",
                attempt=row.attempt + counted,
                error=row.error if error is None else error,
            )
        case DeadLetter(outcome=outcome, keep=keep):
            holds = row.holds and row.called.unique_until == "success"
            until = now + keep
            dead = replace(row, state="dead", nonce="", carrier="", due=now, until=until, outcome=outcome, holds=holds)
            return replace(dead, place=False, turn="")


def extended(row: Row | None, nonce: str, lease: float, now: float) -> tuple[Row | None, tuple[Lease, Row | None]]:
    """Its lease from now on."""
    if row is None or row.state != "leased" or row.nonce != nonce:
        return row, (Lease.LOST, None)
    return replace(row, until=now + lease), (Lease.CANCELLED if row.cancelled else Lease.HELD, row)


# What operators ask for


def cancelled(row: Row | None, now: float) -> tuple[Row | None, Row | None]:
    """The row as it was, where there is a live one. Unless one is on its way, it needs a new message (``new``)."""
    if row is None or not row.live:
        return row, None
    marked = replace(row, cancelled=True)
    if row.state == "leased":
        return marked, row
    coming = row.state == "sent" and row.due <= now
    return (marked if coming else _resent(replace(marked, due=min(row.due, now)), now)), row


def revived(row: Row | None, now: float) -> tuple[Row | None, Row | None]:
    """A dead letter at its beginning, holding its key if it can; the row as it was."""
    if row is None or row.state != "dead":
        return row, None
    expires_in = row.called.expires_in
    again = replace(
        row,
        due=now,
        attempt=1,
        losses=0,
        outcome=None,
        cancelled=False,
        expires_at=None if expires_in is None else now + expires_in,
        holds=row.called.unique is not None and row.key_until > now,
    )
    return _resent(again, now), row


def restored(row: Row | None, before: Row) -> tuple[Row | None, None]:
    """Dead after all."""
    return (before if row is not None and row.life == before.life and row.state == "new" else row), None


def purged(row: Row | None) -> tuple[Row | None, Row | None]:
    """Without the dead letter; the row as it was."""
    return (None, row) if row is not None and row.state == "dead" else (row, None)


def _resent(row: Row, now: float) -> Row:
    astray = row.astray or row.state in ("new", "sent")
    return replace(row, state="new", until=now + SENDING, sent=row.sent + 1, astray=astray)


def _ended(row: Row, outcome: bytes | None, kept: float, now: float) -> Row:
    # Its message, should it stay, comes again when the lease ends; of one astray nobody knows when it comes.
    remembered = max(row.until, now) + (KEPT if row.astray else LEDGER)
    return Row(life=row.life, state="ended", outcome=outcome, kept=kept, until=max(remembered, kept))


def _due(job: Job, now: float) -> float:
    return now + job.delay if job.run_at is None else max(now, job.run_at)
