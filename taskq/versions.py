"""Calls written by other versions of the code: told apart by a number, and brought up to date by the task."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from taskq.errors import DecodeError

VERSION = "taskq-version"
"""Header of calls of a task that has a version: what an older worker leaves to a newer one."""

Upcast = Callable[[int, dict[str, Any]], Mapping[str, Any]]
"""From a call's version and its arguments, as JSON has them, to the arguments as they are sent now."""


class _Wire(Struct):
    args: dict[str, Any]
    v: int = 1


def version_of(headers: Mapping[str, str]) -> int:
    """The version a call was written for; 1 where it says nothing that makes sense."""
    text = headers.get(VERSION, "1")
    return int(text) if text.isdecimal() else 1


def brought_up(body: bytes, version: int, upcast: Upcast) -> bytes:
    """An older call's body as it is written now. Raises DecodeError, whatever the upcaster raises."""
    try:
        wire = msgspec.json.decode(body, type=_Wire)
        return msgspec.json.encode({"v": wire.v, "args": upcast(version, wire.args)})
    except Exception as error:
        raise DecodeError(f"bringing a call of version {version} up to date: {error!r}") from error
