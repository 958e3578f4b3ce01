"""What stands against running an app's tasks and schedules on its brokers: to be told, or to be refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from taskq.broker import Finding
from taskq.brokers import Sites
from taskq.checks import check_task, copies, lingering
from taskq.defaults import unused
from taskq.errors import MissingCapability
from taskq.pools import check_takers
from taskq.schedule import Schedule
from taskq.schedules import check_schedule, lacking
from taskq.task import Task
from taskq.worker.recipe import Recipe


def findings(
    recipe: Recipe, schedules: Mapping[str, Schedule], sites: Sites | None, *, strict: bool
) -> Sequence[Finding]:
    """What an operator should know before they run; without ``sites``, of what needs no broker to be seen."""
    found = [each for task in recipe.tasks.values() for each in _findings_of(task, sites, strict=strict)]
    found += recipe.findings()
    found += unused(recipe.settings.defaults, recipe.queues)
    if sites is None:
        return found
    found += [each for site in sites.by_name.values() for each in lingering(site.own, recipe.settings.grace)]
    return found + [
        Finding(f"schedule {schedule.name}", "error", problem)
        for schedule in schedules.values()
        for problem in lacking(schedule, sites.at(schedule.job.queue).backend)
    ]


def refuse(recipe: Recipe, schedules: Mapping[str, Schedule], sites: Sites) -> None:
    """Raises MissingCapability, or ConfigError, for what must not run there."""
    for task in recipe.tasks.values():
        recipe.follow_up(task.definition)
        for finding in _findings_of(task, sites, strict=recipe.settings.strict):
            if finding.level == "error":
                raise MissingCapability(f"task {finding.subject}: {finding.message}")
    check_takers(recipe.settings.pools, recipe.queues)
    for schedule in schedules.values():
        check_schedule(schedule, sites.at(schedule.job.queue).backend)


def _findings_of(task: Task[..., Any], sites: Sites | None, *, strict: bool) -> Sequence[Finding]:
    backend = None if sites is None else sites.at(task.queue).backend
    found = check_task(task.definition, task.defaults, backend, strict=strict)
    return [*found, *copies(task.name, task.signature, strict=strict)]
