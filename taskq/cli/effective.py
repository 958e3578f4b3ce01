"""What counts for a task of all that is said of it, and where it is said."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from msgspec import Struct

from taskq.app import App
from taskq.config import Settings
from taskq.defaults import inherited
from taskq.task import Task

LONGEST = 1.0 - 2**-53
"""The chance that makes jittered waits as long as they get."""

_OF_CALLS = (
    *("priority", "delay", "run_at", "expires_in", "expires_at"),
    *("unique", "group", "group_limit", "tenant", "tags"),
)


class Effective(Struct, frozen=True):
    """An option, its value, and who said it."""

    option: str
    value: object
    source: str


def effective(app: App, task: Task[Any, Any]) -> Sequence[Effective]:
    """Every option of a task that tells how its jobs are stored, run and retried."""
    shown = {"queue": task.queue, **_run(app, task), **_retried(app, task)}
    shown |= {option: getattr(task.defaults, option) for option in _OF_CALLS}
    sources = _sources(app, task)
    at_most_once = task.definition.policy.guarantee == "at_most_once"
    of_retry = sources.get("delivery" if at_most_once else "retry", "default")
    sources |= {"attempts": of_retry, "longest waits": of_retry}
    return [Effective(option, value, sources.get(option, "default")) for option, value in shown.items()]


def _run(app: App, task: Task[Any, Any]) -> Mapping[str, object]:
    definition = task.definition
    return {
        "executor": definition.executor,
        "delivery": definition.policy.guarantee,
        "idempotent": definition.idempotent,
        "transaction": definition.transaction,
        "timeout": definition.timeouts.run,
        "soft_timeout": definition.timeouts.soft,
        "idle_timeout": definition.timeouts.idle,
        "limits": [repr(limit) for limit in definition.limits],
        "version": definition.version,
        "capture": app.settings.capture if definition.capture is None else definition.capture,
    }


def _retried(app: App, task: Task[Any, Any]) -> Mapping[str, object]:
    policy = task.policy(app.settings.keep_dead)
    waits = [policy.retry.next_delay(Exception(), n, LONGEST, failing_for=0.0) for n in range(1, policy.retry.attempts)]
    once = policy.guarantee == "at_most_once"
    return {
        "attempts": 1 if once else policy.retry.attempts,
        "longest waits": [] if once else [round(wait, 1) for wait in waits if wait is not None],
        "max_losses": policy.max_losses,
        "keep": policy.keep,
        "keep_dead": policy.keep_dead if policy.keep_dead != inf else None,
        "on_dead": task.definition.on_dead or app.on_dead,
    }


def _sources(app: App, task: Task[Any, Any]) -> dict[str, str]:
    """Who said each option, but for those of which nobody said anything; whoever counts more comes last."""
    config = app.config
    settings = {name: f"setting {name} ({config.sources[name]})" for name in ("keep", "keep_dead", "capture")}
    defaults = {
        name: value for name, value in settings.items() if getattr(app.settings, name) != getattr(Settings(), name)
    }
    from_app = {"on_dead": "App(...)"} if app.on_dead is not None else {}
    of_queue = inherited(task.queue, app.settings.defaults)
    told = {name: f"{key} ({config.sources['defaults']})" for name, (_, key) in of_queue.items()}
    said = task.definition.said | task.defaults.said
    return {**defaults, **from_app, **told, **dict.fromkeys(said, "task")}
