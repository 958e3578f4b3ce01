"""An inert call: a task's name and encoded arguments, to be handed to ``defer_many`` and the like."""

import os
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from msgspec import Struct

from taskq.job import Job

R = TypeVar("R")


class Call(Struct, Generic[R], frozen=True, kw_only=True):
    """One call of a task that nothing has happened to yet."""

    job: Job
    decode: Callable[[bytes], R]
    """Bytes of a result to the result."""
    keep: float
    """Seconds the result will be kept."""
    transaction: Any = None
    """The caller's own transaction to enqueue in, if any."""


def new_id() -> str:
    """A UUIDv7 (RFC 9562) as 32 hexadecimal digits: unique, and later ones sort behind earlier milliseconds."""
    milliseconds = time.time_ns() // 1_000_000
    number = int.from_bytes(milliseconds.to_bytes(6) + os.urandom(10))
    version_and_variant = number & ~(0xF000 << 64) & ~(0xC000 << 48) | (0x7000 << 64) | (0x8000 << 48)
    return f"{version_and_variant:032x}"
