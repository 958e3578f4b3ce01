"""``taskq signatures``: whether jobs that wait still fit the code about to be deployed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import anyio
import click
import msgspec
from msgspec.structs import replace

from taskq.app import App
from taskq.broker import Admin, Finding
from taskq.cli.exits import FAILED
from taskq.cli.load import APP, load_app
from taskq.cli.output import json_option, write_findings
from taskq.fingerprint import Fingerprint, compare, fingerprint, refusal
from taskq.job import State
from taskq.opening import open_sites

PAGE = 1000
_WAITING: Sequence[State] = ("ready", "later", "leased")

_file = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default="taskq-signatures.json",
    show_default=True,
    help="What was recorded.",
)


@click.group()
def signatures() -> None:
    """Notice a deploy that would strand jobs."""


@signatures.command()
@click.argument("target", metavar=APP, envvar="TASKQ_APP")
@_file
def record(target: str, path: Path) -> int:
    """Write down the signatures of MODULE:app; commit the file beside the code."""
    prints = _prints(load_app(target))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(prints, order="sorted"), indent=1) + b"\n")
    click.echo(f"{len(prints)} tasks recorded in {path}")
    return 0


@signatures.command()
@click.argument("target", metavar=APP, envvar="TASKQ_APP")
@_file
@click.option("--queued", is_flag=True, help="Compare with the jobs that wait, too; reads up to --limit a queue.")
@click.option("--limit", type=click.IntRange(1), default=10_000, show_default=True)
@json_option
def check(target: str, path: Path, queued: bool, limit: int, as_json: bool) -> int:
    """Compare the signatures of MODULE:app with those recorded, and with the jobs that wait.

    Exits with 1 when jobs would be set aside by this code: for your CI, before a deploy.
    """
    app = load_app(target)
    findings = [*compare(_read(path), _prints(app))]
    if queued:
        findings += anyio.run(_queued, app, limit)
    write_findings(findings, as_json=as_json)
    errors = sum(finding.level == "error" for finding in findings)
    if not as_json:
        click.echo(f"{len(app.registry.tasks)} tasks, {errors} errors, {len(findings) - errors} warnings")
    return FAILED if errors else 0


def _prints(app: App) -> Mapping[str, Fingerprint]:
    return {name: fingerprint(task) for name, task in app.registry.tasks.items()}


def _read(path: Path) -> Mapping[str, Fingerprint]:
    try:
        return cast("Mapping[str, Fingerprint]", msgspec.json.decode(path.read_bytes(), type=dict[str, Fingerprint]))
    except FileNotFoundError:
        raise click.UsageError(f"there is no {path}: write it with taskq signatures record") from None
    except msgspec.MsgspecError as error:
        raise click.UsageError(f"{path} is not what taskq signatures record writes: {error}") from None


async def _queued(app: App, limit: int) -> Sequence[Finding]:
    """One finding a kind of trouble: of a million jobs that do not fit, the first one tells enough."""
    async with open_sites(app.settings, app.events.emit) as sites:
        admin = sites.default.backend.admin
        if admin is None:
            raise click.UsageError("this broker shows no jobs: leave out --queued")
        found: dict[Finding, str] = {}
        for queue in await admin.stats():
            for state in _WAITING:
                for job, finding in await _refused(app, admin, queue.queue, state, limit):
                    found.setdefault(finding, job)
    return [replace(finding, message=f"{finding.message} (job {job})") for finding, job in found.items()]


async def _refused(app: App, admin: Admin, queue: str, state: State, limit: int) -> Sequence[tuple[str, Finding]]:
    after, findings = None, list[tuple[str, Finding]]()
    for start in range(0, limit, PAGE):
        records = await admin.list_jobs(queue, state, after=after, limit=min(PAGE, limit - start))
        for one in records:
            finding = refusal(app.registry.tasks.get(one.job.task), one.job)
            if finding is not None:
                findings.append((one.job.id, finding))
        if not records:
            break
        after = records[-1].job.id
    return findings
