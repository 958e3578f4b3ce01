"""Options that the tasks of a queue have in common, from the settings: each is for tasks that do not say it."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import Annotated, Any

from msgspec import Meta, Struct

from taskq.broker import Finding
from taskq.errors import ConfigError, UnknownTask
from taskq.pools import Count, check_name

EVERY = "*"
"""What stands for all queues; what is said of a queue itself goes before it."""

MOST_CAPTURED = 1 << 20
"""Bytes: they are written anew each second in which a job has something to say."""

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Captured = Annotated[int, Meta(ge=0, le=MOST_CAPTURED)]


class QueueDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the tasks of a queue say unless they say otherwise, as options of the same names do; None: nothing."""

    priority: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None = None
    expires_in: NotNegative | None = None
    timeout: NotNegative | None = None
    soft_timeout: NotNegative | None = None
    idle_timeout: Positive | None = None
    retry: Count | None = None
    """That many attempts on the default curve."""
    max_losses: Count | None = None
    keep: NotNegative | None = None
    keep_dead: NotNegative | None = None
    on_dead: str | None = None
    capture: Captured | None = None


Inherited = Mapping[str, tuple[Any, str]]
"""By option: the value, and the setting in which it stands."""


def inherited(queue: str, defaults: Mapping[str, QueueDefaults]) -> Inherited:
    """What is said for the tasks of this queue."""
    found: dict[str, tuple[Any, str]] = {}
    for key in (EVERY, queue):
        said = defaults.get(key, QueueDefaults())
        for name in QueueDefaults.__struct_fields__:
            value = getattr(said, name)
            if value is not None:
                found[name] = (value, f"defaults.{key}.{name}")
    return found


def check_defaults(defaults: Mapping[str, QueueDefaults]) -> None:
    """Raises ConfigError for a name that no queue can have, and for jobs that expire when time ends."""
    for queue, said in defaults.items():
        if queue != EVERY:
            check_name("defaults of queue", queue)
        if said.expires_in == inf:
            raise ConfigError(f"setting 'defaults.{queue}.expires_in': give seconds; left out, nothing expires")


def check_followers(defaults: Mapping[str, QueueDefaults], tasks: Collection[str]) -> None:
    """Raises UnknownTask, before any job dies, for an ``on_dead`` that names none of these tasks."""
    for queue, said in defaults.items():
        if said.on_dead is not None and said.on_dead not in tasks:
            raise UnknownTask(
                f"setting 'defaults.{queue}.on_dead': no task of this app is named {said.on_dead!r} "
                f"(known: {', '.join(sorted(tasks)) or 'none'})"
            )


def unused(defaults: Mapping[str, QueueDefaults], queues: Collection[str]) -> Sequence[Finding]:
    """A warning for each queue that none of an app's tasks is on: perhaps its name is misspelled."""
    findings: list[Finding] = []
    for queue in defaults.keys() - {EVERY, *queues}:
        close = difflib.get_close_matches(queue, queues, 1)
        hint = f"did you mean {close[0]!r}?" if close else "nothing to do if it is another app's"
        findings.append(Finding(f"defaults.{queue}", "warning", f"no task is on this queue: {hint}"))
    return sorted(findings, key=lambda finding: finding.subject)
