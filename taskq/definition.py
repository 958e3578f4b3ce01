"""How a task runs: the registry's half of it, which no job carries."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from taskq.collect import Collect
from taskq.depends import Dependency
from taskq.errors import ConfigError
from taskq.limits.declared import Declared
from taskq.middleware import Middleware
from taskq.options import Executor, Idempotence, OnOutage
from taskq.outcome import Policy
from taskq.retry import Retry
from taskq.timeouts import Timeouts, check_timeouts
from taskq.versions import Upcast


class Definition(Struct, frozen=True, kw_only=True):
    """A deploy changes it for jobs already queued."""

    name: str
    function: Callable[..., Any]
    policy: Policy = Policy()
    keep: float | None = None
    keep_dead: float | None = None
    timeouts: Timeouts = Timeouts()
    idempotent: Idempotence | None = None
    executor: Executor = "loop"
    transaction: bool = False
    on_dead: str | None = None
    on_outage: OnOutage = "spool"
    middleware: Sequence[Middleware] = ()
    limits: tuple[Declared, ...] = ()
    collect: Collect | None = None
    precondition: Callable[..., Any] | None = None
    dependencies: Mapping[str, Dependency] = {}
    version: int = 1
    upcast: Upcast | None = None
    capture: int | None = None
    said: frozenset[str] = frozenset()
    """Which options the task named."""


_OWN = frozenset({"keep", "keep_dead", "on_dead", "capture"})
_BOUNDS = {"timeout": "run", "soft_timeout": "soft", "idle_timeout": "idle"}


def refuse_retries(definition: Definition) -> None:
    """Raises ConfigError for a task that must never run twice."""
    if definition.policy.guarantee == "at_most_once":
        raise ConfigError(f"task {definition.name} runs at most once and cannot be retried: drop retry= and attempts=")


def completed(definition: Definition, defaults: Mapping[str, Any]) -> Definition:
    """The definition with these defaults where the task said nothing."""
    missing = {name: value for name, value in defaults.items() if name not in definition.said}
    policy = definition.policy
    if "retry" in missing and policy.guarantee == "at_least_once":
        policy = replace(policy, retry=Retry(missing["retry"]))
    if "max_losses" in missing:
        policy = replace(policy, max_losses=missing["max_losses"])
    bounds = {_BOUNDS[name]: value for name, value in missing.items() if name in _BOUNDS}
    timeouts = check_timeouts(definition.name, replace(definition.timeouts, **bounds))
    own = {name: value for name, value in missing.items() if name in _OWN}
    return replace(definition, policy=policy, timeouts=timeouts, **own) if missing else definition
