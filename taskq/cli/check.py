"""``taskq check``: what an operator should know of an app before it runs."""

from collections.abc import Sequence

import anyio
import click

from taskq.app import App
from taskq.broker import Finding
from taskq.checks import durable
from taskq.cli.load import APP, load_app
from taskq.cli.output import json_option, write_findings
from taskq.opening import open_sites


@click.command()
@click.argument("target", metavar=APP, envvar="TASKQ_APP")
@click.option("--strict", is_flag=True, help="Make warnings errors.")
@click.option("--offline", is_flag=True, help="Say only what can be said without the broker.")
@json_option
def check(target: str, strict: bool, offline: bool, as_json: bool) -> int:
    """Check an app before it runs.

    Compares what the tasks of MODULE:app need with what its broker promises.
    Exits with 1 when there is an error, 0 when there are only warnings.
    """
    app = load_app(target)
    findings, promise = anyio.run(_examine, app, strict or app.settings.strict, offline)
    findings = [*findings, *_pools(app)]
    write_findings(findings, as_json=as_json)
    errors = sum(finding.level == "error" for finding in findings)
    if not as_json:
        warnings = sum(finding.level == "warning" for finding in findings)
        click.echo(f"{len(app.registry.tasks)} tasks, {errors} errors, {warnings} warnings; {promise}")
    return 1 if errors else 0


async def _examine(app: App, strict: bool, offline: bool) -> tuple[Sequence[Finding], str]:
    if offline:
        return app.check_on(None, strict=strict), "the broker was not asked"
    # Not through the app: that would run its lifespan, and stop at the first error.
    async with open_sites(app.settings, app.events.emit) as sites:
        promises = {name: durable(site.own.broker.traits) for name, site in sites.by_name.items()}
        told = "; ".join(f"{name}: {promise}" if sites.several else promise for name, promise in promises.items())
        return app.check_on(sites, strict=strict), told


def _pools(app: App) -> Sequence[Finding]:
    """What a worker is made of."""
    settings = app.settings
    return [
        Finding(
            f"pool {name}",
            "ok",
            f"{pool.slots or settings.slots} slots for {', '.join(pool.queues)}"
            + (f", on broker {pool.broker}" if settings.brokers else ""),
        )
        for name, pool in settings.pools.items()
    ]
