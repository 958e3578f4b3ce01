"""How long a run may take, and how long it may be silent."""

from msgspec import Struct

from taskq.errors import ConfigError


class Timeouts(Struct, frozen=True):
    """Seconds; None: no bound."""

    run: float | None = None
    """After which it is cancelled."""
    soft: float | None = None
    """After which it is asked to stop by itself."""
    idle: float | None = None
    """Without a sign of life, after which it is cancelled."""


def check_timeouts(task: str, timeouts: Timeouts) -> Timeouts:
    """The same; raises ConfigError for bounds of which one would never be reached."""
    run, soft, idle = timeouts.run, timeouts.soft, timeouts.idle
    if run is not None and soft is not None and soft >= run:
        raise ConfigError(
            f"task {task}: soft_timeout={soft:g} asks a run to stop that timeout={run:g} has cancelled: "
            "give a longer timeout=, or the task a shorter soft_timeout="
        )
    if run is not None and idle is not None and idle >= run:
        raise ConfigError(
            f"task {task}: timeout={run:g} is over before idle_timeout={idle:g} could be: "
            "give a longer timeout=, or the task a shorter idle_timeout="
        )
    return timeouts
