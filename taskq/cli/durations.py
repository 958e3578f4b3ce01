"""Seconds as people write and read them: ``90``, ``10m``, ``30d``."""

import re
from collections.abc import Mapping

import click

_UNITS: Mapping[str, float] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|[smhdw])?")
_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/([smhd]))?")


def duration(text: str) -> float:
    """Seconds; an option's type."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration; write 90, 1.5h, 10m or 30d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def rate(text: str) -> float:
    """How many a second; an option's type."""
    found = _RATE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{text!r} is no rate; write 50/s or 600/m")
    return float(found[1]) / _UNITS[found[2] or "s"]


def readable(seconds: float) -> str:
    """About so long, in one unit: ``3 d``, ``12 m``, ``0.4 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, next_up in (("s", 120.0), ("m", 7200.0), ("h", 172_800.0)):
        if seconds < next_up:
            return f"{seconds / _UNITS[unit]:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def from_now(moment: float, now: float) -> str:
    """``in 5 m`` or ``5 m ago``."""
    return f"in {readable(moment - now)}" if moment > now else f"{readable(now - moment)} ago"
