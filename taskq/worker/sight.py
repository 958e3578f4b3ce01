"""What a worker is doing right now, as one value that any thread may ask for."""

from collections.abc import Mapping

from msgspec import Struct


class Sight(Struct, frozen=True, kw_only=True):
    """A worker at one moment; seconds."""

    started: bool
    """It has begun to fetch."""
    draining: bool
    quiet: bool
    """It fetches nothing for now, as it was told."""
    slots: int
    """Those it uses now."""
    withheld: int
    """Those it does not use for now, as its event loop lags."""
    running: int
    held: int
    """Deliveries it has fetched and not settled."""
    lag: float
    """How long the event loop last took to answer."""
    stalled: float
    """For how long the event loop has not answered."""
    away: Mapping[str, float]
    """The brokers that do not answer, and for how long."""
    out_of_contact: float
    """For how long none has answered; 0.0 while one does."""


def trouble_alive(sight: Sight, patience: float) -> str | None:
    """Why the process should be restarted, or None: its event loop has not turned for longer than ``patience``."""
    return f"the event loop has stood still for {sight.stalled:.1f} s" if sight.stalled > patience else None


def trouble_ready(sight: Sight, lease: float) -> str | None:
    """Why it should not be counted on for work, or None."""
    if not sight.started:
        return "it has not begun to fetch"
    if sight.draining:
        return "it is draining"
    if sight.out_of_contact > lease:
        who = "the broker has" if len(sight.away) == 1 else "no broker has"
        return f"{who} not answered for {sight.out_of_contact:.1f} s"
    return None


def remark(sight: Sight, lease: float) -> str | None:
    """What is wrong although it works, or None."""
    away = [name for name, seconds in sight.away.items() if seconds > lease]
    return f"but not on broker {', '.join(away)}, out of reach" if away else None
