"""``taskq complete``: let a job end as if it had returned."""

import anyio
import click
import msgspec

from taskq.app import App
from taskq.cli.audit import by_option, noted
from taskq.cli.output import json_option, url_option, write_json
from taskq.job import JobRef


def _value(_context: click.Context, _option: click.Parameter, text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"{text!r} is no JSON: {error}") from error


@click.command()
@click.argument("id")
@click.option("--value", default="null", show_default=True, callback=_value, help="What it is to return, as JSON.")
@by_option
@url_option
@json_option
def complete(id: str, value: object, by: str, url: str | None, as_json: bool) -> int:
    """Let a job end as if it had returned a value.

    A step of a chain that has failed is skipped so, and one that waits for somebody is answered: what follows goes on.
    Exits with 1 when there is no such job, or it has ended.
    """
    found = anyio.run(_complete, url, id, value, by)
    if as_json:
        write_json({"id": id, "completed": found})
    else:
        click.echo(f"{id}: {'ends with this value' if found else 'no such job, or it has ended'}")
    return 0 if found else 1


async def _complete(url: str | None, id: str, value: object, by: str) -> bool:
    async with App(url) as app:
        record = await app.admin.find(id)
        if record is None:
            return False
        await noted(app, "complete", f"job {id}", by=by)
        return await app.complete(JobRef(record.job.queue, id), value)
