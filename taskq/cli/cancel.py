"""``taskq cancel``: ask for jobs to be cancelled."""

from collections.abc import Sequence

import anyio
import click

from taskq.app import App
from taskq.cli.audit import by_option, noted
from taskq.cli.output import json_option, url_option, write_json
from taskq.job import JobRef


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@by_option
@url_option
@json_option
def cancel(ids: Sequence[str], by: str, url: str | None, as_json: bool) -> int:
    """Cancel jobs.

    A waiting one never runs, a running one is cancelled within about a second.
    Exits with 1 when a job was not found or has ended.
    """
    answers = anyio.run(_cancel, url, ids, by)
    for job_id, cancelled in answers.items():
        if as_json:
            write_json({"id": job_id, "cancelled": cancelled})
        else:
            click.echo(f"{job_id}: {'will be cancelled' if cancelled else 'no such job, or it has ended'}")
    return 0 if all(answers.values()) else 1


async def _cancel(url: str | None, ids: Sequence[str], by: str) -> dict[str, bool]:
    async with App(url) as app:
        await noted(app, "cancel", *(f"job {job_id}" for job_id in ids), by=by)
        return {job_id: await _cancel_one(app, job_id) for job_id in ids}


async def _cancel_one(app: App, id: str) -> bool:
    record = await app.admin.find(id)
    return record is not None and record.state != "dead" and await app.cancel(JobRef(record.job.queue, id))
