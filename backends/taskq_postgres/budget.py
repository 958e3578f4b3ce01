"""The connections of a process, and whether the server has as many."""

from typing import Any

from taskq.errors import BrokerUnavailable
from taskq_postgres.settings import Address, Settings

BESIDE = 3
"""What a process holds beside those for its verbs: one that listens, one that is lent, and one of the thread that
extends leases, with which limits' places are renewed and notes are made of runs, too."""


def budget(settings: Settings) -> int:
    """How many it may come to hold."""
    return settings.connections + BESIDE


def room(row: Any) -> int:
    """How many more clients the server takes, by a row that says ``most`` and ``used``."""
    left: int = row["most"] - row["used"]
    return max(0, left)


def check(row: Any, address: Address, settings: Settings) -> None:
    """Refuse a server that would run out of connections at work; the one that asked is among those in use."""
    needed = budget(settings)
    if room(row) + 1 < needed:
        raise BrokerUnavailable(
            f"{address.shown}: {row['used'] - 1} of {row['most']} connections are in use, and this process needs up to "
            f"{needed} ({settings.connections} for its verbs, {BESIDE} to listen, extend and lend): "
            "raise max_connections, put PgBouncer in between, start fewer processes, or lower connections= in the URL"
        )
