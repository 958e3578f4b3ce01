"""What SQS hands over, as deliveries."""

from math import ceil, inf
from typing import Annotated

from msgspec import Meta, Struct

from taskq.job import Delivery
from taskq_sqs import message

SEEN = ("SentTimestamp", "ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp")


class Moments(Struct):
    """Of a message, by the service's clock, in milliseconds as text."""

    SentTimestamp: str = "0"
    ApproximateReceiveCount: str = "1"
    ApproximateFirstReceiveTimestamp: str = "0"


class Message(Struct):
    """One that was received."""

    MessageId: str
    ReceiptHandle: str
    Body: str
    Attributes: Moments


class Received(Struct):
    """What a receive brought."""

    Messages: Annotated[list[Message], Meta(max_length=10)] = []


def moment_of(found: Message) -> tuple[float, float]:
    """Between which moments it was received: known to the millisecond if this was the first time."""
    first = int(found.Attributes.ApproximateFirstReceiveTimestamp) / 1e3
    return first, first + 0.001 if found.Attributes.ApproximateReceiveCount == "1" else inf


def delivery_of(
    found: Message, queue: str, band: int, serial: int, *, lease: float, now: float, fifo: bool
) -> Delivery:
    """The job in a worker's hands. Raises Undecodable."""
    body = message.read(found.Body)
    attributes = found.Attributes
    receives = int(attributes.ApproximateReceiveCount)
    first = int(attributes.ApproximateFirstReceiveTimestamp) / 1e3
    due = message.due_of(body, int(attributes.SentTimestamp) / 1e3)
    waited = due - int(attributes.SentTimestamp) / 1e3 if fifo else 0.0
    receives_early = ceil(waited / message.MAX_LEASE)
    losses = body.losses + _losses(receives - receives_early, now - first - waited, lease)
    fence = body.fence + receives
    numbers = now, due, losses, fence, serial
    held = message.Receipt(queue, band, found.ReceiptHandle, *numbers, found.MessageId, found.Body)
    return Delivery(
        job=message.job_of(body, queue, body.id or found.MessageId),
        attempt=body.attempt,
        losses=losses,
        fence=fence,
        receipt=message.receipt_of(held),
        now=now,
        # What was received before became due again when that lease ended or was given up, which nobody knows.
        due=due if receives == 1 + receives_early or due > now else now,
        expires_at=message.expiry_of(body, due),
        error=message.unpacked(body.error),
    )


def _losses(receives: int, elapsed: float, lease: float) -> int:
    """Leases that ended unsettled, as far as can be told.

    A receive before this one may have been handed back or doubled by the service; but each lease that was lost took its
    time.
    """
    return min(receives - 1, int(elapsed / lease)) if receives > 1 else 0
