"""``taskq job``: everything that is known of one job."""

import time
from collections.abc import Iterator

import anyio
import click
import msgspec

from taskq.app import App
from taskq.broker import Record
from taskq.cli.durations import from_now
from taskq.cli.output import json_option, one_line, url_option, write_json
from taskq.cli.record import arguments_text, ended_of, errors_of, record_json
from taskq.expiry import expiry
from taskq.job import JobRef
from taskq.ledger.notes import Progress
from taskq.report import Ended, ErrorReport, read_outcome
from taskq.tags import TAGS, tags_of


@click.command()
@click.argument("id")
@click.option("--queue", help="Where it was, to see how a job ended that is gone.")
@url_option
@json_option
def job(id: str, queue: str | None, url: str | None, as_json: bool) -> None:
    """Show the job ID: its call, its state, its errors."""
    record, ended, progress = anyio.run(_find, url, id, queue)
    if record is not None:
        if as_json:
            write_json({**record_json(record), **({} if progress is None else {"progress": progress})})
        else:
            _show(record, progress)
    elif ended is not None:
        if as_json:
            write_json({"id": id, "queue": queue, "state": "gone", **msgspec.structs.asdict(ended)})
        else:
            _write([("id", id), ("state", f"gone, {ended.end}"), ("value", bytes(ended.value).decode())])
            _write([("build", ended.build)] if ended.build else [])
            _write_errors(ended.reason, ended.errors)
    else:
        kept = "how an ended one ended is known for as long as its task keeps outcomes (keep=)"
        hint = kept if queue else f"{kept}, and shown with --queue"
        raise click.ClickException(f"there is no job {id!r}; {hint}")


async def _find(url: str | None, id: str, queue: str | None) -> tuple[Record | None, Ended | None, Progress | None]:
    async with App(url) as app:
        record = await (app.admin.find(id) if queue is None else app.admin.lookup(JobRef(queue, id)))
        if record is not None:
            known = app.backend.store is not None
            return record, None, await app.progress(JobRef(record.job.queue, id)) if known else None
        if queue is None or app.backend.results is None:
            return None, None, None
        outcome = await app.outcome(JobRef(queue, id), 0.0)
        return None, None if outcome is None else read_outcome(outcome), None


def _show(record: Record, progress: Progress | None) -> None:
    job, ended = record.job, ended_of(record)
    _write(_facts(record, time.time()))
    if progress is not None:
        _write([("progress", f"{progress.done:g}" + ("" if progress.total is None else f" of {progress.total:g}"))])
    _write_errors("" if ended is None else ended.reason, errors_of(record))
    _write([(f"header {name}", text) for name, text in job.headers.items() if name != TAGS])


def _facts(record: Record, now: float) -> Iterator[tuple[str, object]]:
    job = record.job
    yield "id", job.id
    yield "task", job.task
    yield "queue", job.queue
    yield "state", f"{record.state}, asked to cancel" if record.cancelled else record.state
    yield {"leased": "leased until", "dead": "set aside"}.get(record.state, "due"), _moment(record.due, now)
    yield "arguments", arguments_text(record)
    yield "attempt", record.attempt
    for name, value in (("losses", record.losses), ("priority", job.priority)):
        if value:
            yield name, value
    expires_at = expiry(job.headers, record.expires_at)
    if expires_at is not None:
        yield "expires", _moment(expires_at, now)
    tags = ", ".join(tags_of(job)) or None
    for name, text in (("unique key", job.unique), ("group", job.group), ("tenant", job.tenant), ("tags", tags)):
        if text is not None:
            yield name, text


def _moment(moment: float, now: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(moment))} ({from_now(moment, now)})"


def _write(facts: "Iterator[tuple[str, object]] | list[tuple[str, object]]") -> None:
    for name, value in facts:
        click.echo(f"{click.style(f'{name:<13}', bold=True)} {one_line(str(value), 1000)}")


def _write_errors(reason: str, errors: list[ErrorReport]) -> None:
    if reason:
        _write([("reason", reason)])
    for error in errors:
        build = f" build {error.build}" if error.build else ""
        _write([(f"attempt {error.attempt}", f"{error.type}: {error.message} [{error.fingerprint}]{build}")])
    if errors and errors[-1].traceback:
        for line in errors[-1].traceback.splitlines():
            click.echo(f"  {one_line(line, 1000)}")
