"""``taskq doctor``: what a broker promises as it is configured, and what endangers that."""

from collections.abc import Sequence
from typing import cast, get_args

import anyio
import click
import msgspec

from taskq.app import App
from taskq.broker import Backend, Durability, Finding, Traits
from taskq.checks import check_task, durable, lingering, outlasting
from taskq.cli.load import APP, load_app
from taskq.cli.output import json_option, write_findings, write_json, write_table
from taskq.opening import open_backend
from taskq.pools import DEFAULT, home_of

DURABILITIES: Sequence[Durability] = get_args(Durability)
"""The weakest first."""


@click.command()
@click.argument("url", required=False)
@click.option("--app", "target", metavar=APP, envvar="TASKQ_APP", help="Also hold the broker to what its tasks need.")
@click.option("--durability", type=click.Choice(DURABILITIES), help="Fail unless a deferred job is this safe.")
@json_option
def doctor(url: str | None, target: str | None, durability: Durability | None, as_json: bool) -> int:
    """Examine the broker: what it promises, and what endangers that.

    Asks the broker that URL names, or the app, or the settings. Changes nothing.
    Exits with 1 when something that was asked for cannot be kept, 0 when there are only warnings.
    """
    app = App(url) if target is None else load_app(target)
    traits, findings = anyio.run(_examine, app, url or app.settings.url, durability)
    promises: dict[str, object] = msgspec.to_builtins(traits)
    if as_json:
        for name, value in promises.items():
            write_json({"trait": name, "value": value})
    else:
        write_table(("trait", "value"), [(name, _text(value)) for name, value in promises.items()])
    write_findings(findings, as_json=as_json)
    return 1 if any(finding.level == "error" for finding in findings) else 0


async def _examine(app: App, url: str, durability: Durability | None) -> tuple[Traits, Sequence[Finding]]:
    settings = msgspec.structs.replace(app.settings, url=url)
    async with open_backend(settings, app.events.emit) as backend:
        traits = backend.broker.traits
        looked = await backend.doctor() if backend.doctor is not None else ()
        return traits, [*looked, *_unkept(traits, durability), *_unmet(app, backend)]


def _unkept(traits: Traits, durability: Durability | None) -> Sequence[Finding]:
    """The durability that was asked for, when it is not there."""
    if durability is None or DURABILITIES.index(traits.durability) >= DURABILITIES.index(durability):
        return ()
    message = f"{traits.durability}, not {durability}: {durable(traits)}"
    return [Finding("durability", "error", message, "the findings above say what to change, or choose another broker")]


def _unmet(app: App, backend: Backend) -> Sequence[Finding]:
    """What the app needs and the broker does not promise, and what of the app may take longer than it allows."""
    # Of those whose queues are on the broker that the setting ``url`` names.
    here = [task for task in app.registry.tasks.values() if home_of(task.queue, app.settings.pools) == DEFAULT]
    found = (check_task(task.definition, task.defaults, backend, strict=False) for task in here)
    errors = [finding for findings in found for finding in findings if finding.level == "error"]
    outlast = (finding for task in here for finding in outlasting(task.definition, backend))
    return [*errors, *outlast, *lingering(backend, app.settings.grace)]


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(sorted(cast("list[str]", value)))
        case _:
            return str(value)
