"""``taskq batch``: how far a batch is, or all with a tag, which of its members have failed, and an end to it."""

import anyio
import click
from msgspec.structs import asdict

from taskq.app import App
from taskq.cli.audit import by_option, noted
from taskq.cli.output import json_option, url_option, write_json
from taskq.flow import BatchStatus, Ends


@click.command()
@click.argument("id", required=False)
@click.option("--tag", help="Show all with this tag that have not ended, or did so within a day.")
@click.option("--cancel", "cancels", is_flag=True, help="Seal it and cancel its members.")
@click.option("--failed", "lists", is_flag=True, help="Print the ids of the members that have failed, to revive them.")
@by_option
@url_option
@json_option
def batch(id: str | None, tag: str | None, cancels: bool, lists: bool, by: str, url: str | None, as_json: bool) -> int:
    """Show how far the batch ID is, or cancel it.

    Exits with 1 when there is no such batch, or nothing to cancel.
    """
    if id is None:
        if tag is None or cancels or lists:
            raise click.UsageError("give an ID, or a --tag alone")
        for found in anyio.run(_tagged, url, tag):
            write_json(asdict(found)) if as_json else click.echo(f"{found.id}: {_told(found)}")
        return 0
    if tag is not None:
        raise click.UsageError("give an ID or a --tag")
    status, failed, cancelled = anyio.run(_look, url, id, cancels, by)
    if status is None:
        click.echo(f"{id}: no such batch, or it ended longer ago than it is kept", err=True)
    elif lists:
        for member in failed:
            write_json({"id": member}) if as_json else click.echo(member)
    elif as_json:
        write_json(asdict(status))
    else:
        click.echo(f"{id}: {_told(status)}")
    return 1 if status is None or (cancels and not cancelled) else 0


async def _tagged(url: str | None, tag: str) -> list[BatchStatus]:
    async with App(url) as app:
        return [status async for status in app.batches(tag=tag)]


async def _look(url: str | None, id: str, cancels: bool, by: str) -> tuple[BatchStatus | None, list[str], bool]:
    async with App(url) as app:
        found = app.batch(id)
        if cancels:
            await noted(app, "cancel", f"batch {id}", by=by)
        cancelled = cancels and await found.cancel()
        return await found.status(), [ref.id for ref in await found.failures()], cancelled


def _told(status: BatchStatus) -> str:
    state = "over" if status.over is not None else "sealed" if status.sealed else "open"
    counts = f"{status.total} members, {status.pending} pending, {status.failed} failed"
    excused = f", {status.excused} excused" if status.excused else ""
    lines = [f"{state}{', cancelled' if status.cancelled else ''}; {counts}{excused}"]
    ends = {"returned": status.succeeded, **asdict(status.ends)}
    if status.ends != Ends(failed=status.failed):
        lines.append(f"  ended: {', '.join(f'{number} {end}' for end, number in ends.items() if number)}")
    if status.description:
        lines.append(f"  {status.description}")
    if status.tags:
        lines.append(f"  tags: {', '.join(status.tags)}")
    return "\n".join(lines)
