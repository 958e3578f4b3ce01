"""The moment at which a call expires. It travels in a header: workers obey it, and brokers need not know of it."""

from collections.abc import Mapping
from contextlib import suppress
from math import isfinite

from msgspec.structs import replace

from taskq.job import Delivery

EXPIRES_AT = "taskq-expires-at"
"""Seconds since the epoch, by the backend's clock."""


def dated(delivery: Delivery) -> Delivery:
    """The delivery with the moment after which it must not start, whoever named it."""
    expires_at = expiry(delivery.job.headers, delivery.expires_at)
    return delivery if expires_at == delivery.expires_at else replace(delivery, expires_at=expires_at)


def expiry(headers: Mapping[str, str], since_due: float | None) -> float | None:
    """The earlier one of the call's own moment and of the one that the broker counted from when the job was due."""
    if EXPIRES_AT in headers:
        # A header that makes no sense says nothing.
        with suppress(ValueError):
            moment = float(headers[EXPIRES_AT])
            if isfinite(moment):
                return moment if since_due is None else min(moment, since_due)
    return since_due
