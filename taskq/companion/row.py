"""What a companion remembers of one job: the truth about it, of which messages only remind."""

from math import inf
from typing import Literal

import msgspec
from msgspec import Struct

from taskq.job import Job, JobRef

State = Literal["new", "later", "waiting", "sent", "leased", "dead", "ended"]
"""``new``: not known to have been sent · ``later``: its moment is to come, and no message is about · ``waiting``: for
a place in its group, and no message is about · ``sent`` ·
``leased`` · ``dead`` · ``ended``: remembered for a while, so that a message that comes again is known."""

KEPT = 15 * 86_400.0
"""Seconds for which a job is remembered about which nothing is heard: longer than SQS keeps a message."""
SENDING = 10.0
"""Seconds after which somebody else sends what was to be sent."""
FOREVER = 100 * 365 * 86_400.0


class Row(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One job. Moments are the store's, in seconds since the epoch."""

    life: str
    """Of this id, which may be used again when its job has ended; empty: it came from elsewhere."""
    state: State
    job: Job | None = None
    """None when it has ended."""
    due: float = 0.0
    until: float = 0.0
    """``new``: when somebody else may send it · ``leased``: the lease's end · ``dead``, ``ended``: when it is
    forgotten."""
    attempt: int = 1
    losses: int = 0
    fence: int = 0
    nonce: str = ""
    """Of the delivery that may settle it."""
    carrier: str = ""
    """The receipt of the message that brought it."""
    expires_at: float | None = None
    cancelled: bool = False
    error: bytes | None = None
    outcome: bytes | None = None
    kept: float = 0.0
    """How long the outcome of an ended job can be read."""
    holds: bool = False
    """It holds its unique key."""
    key_until: float = inf
    place: bool = False
    """It has a place in its group."""
    turn: str = ""
    """Its turn among those who wait for one; empty: by its moment."""
    sent: int = 0
    """Messages sent for it so far."""
    astray: bool = False
    """Another than the last of them may be about."""
    worn: int = 0
    """Deliveries of the one that came last."""

    @property
    def live(self) -> bool:
        """Not ended, and not set aside."""
        return self.state not in ("dead", "ended")

    @property
    def waits(self) -> bool:
        """It needs a place in its group before it may run; one that is cancelled needs none."""
        return self.called.group is not None and not self.place and not self.cancelled

    @property
    def called(self) -> Job:
        """The job of a row that has one."""
        assert self.job is not None, "only an ended row has none"  # noqa: S101
        return self.job

    @property
    def ref(self) -> JobRef:
        """Where it is to be found."""
        return JobRef(self.called.queue, self.called.id)


def time_to_live(row: Row, now: float) -> float:
    """Seconds for which the store is to keep it."""
    if row.state in ("dead", "ended"):
        return min(row.until - now, FOREVER)
    return FOREVER if row.state == "waiting" else max(row.due, row.until, now) - now + KEPT


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Row).decode


def written(row: Row) -> bytes:
    """As the store holds it."""
    return _encode(row)


def read(value: bytes | None) -> Row | None:
    """The inverse; None for none."""
    return None if value is None else _decode(value)
