"""``taskq stats``: how many jobs wait, run and lie dead."""

import time
from collections.abc import Sequence

import anyio
import click
import msgspec

from taskq.app import App
from taskq.broker import QueueStats
from taskq.cli.durations import readable
from taskq.cli.output import json_option, place_of, url_option, write_json, write_table
from taskq.worker.control import Paused, is_queue, what_is_paused

TITLES = ("queue", "ready", "leased", "later", "dead", "oldest", "")


@click.command()
@click.argument("queues", metavar="[QUEUE]...", nargs=-1)
@url_option
@json_option
def stats(queues: Sequence[str], url: str | None, as_json: bool) -> None:
    """Count the jobs of each queue.

    ready: due, waiting for a worker. leased: in a worker's hands. later: scheduled, or waiting to be tried again.
    dead: set aside. oldest: how long the longest-waiting ready job has waited.
    """
    app = App(url)
    found, paused = anyio.run(_look, app, queues)
    if as_json:
        for queue in found:
            paused_now = {"paused": queue.queue in paused, "resumes_at": paused.get(queue.queue)}
            write_json(msgspec.structs.asdict(queue) | paused_now)
    elif found:
        write_table(TITLES, [row(queue, paused) for queue in found])
    else:
        click.echo(f"No queue holds a job at {place_of(app.config)}.")
    if not as_json and (others := [name.replace(":", " ", 1) for name in paused if not is_queue(name)]):
        click.echo(f"Paused besides: {', '.join(sorted(others))}.")
    if not as_json and (lapsed := [f"{queue.queue} {queue.lapsed}" for queue in found if queue.lapsed]):
        click.echo(f"Dead letters whose time was over, so far: {', '.join(lapsed)}.")


async def _look(app: App, queues: Sequence[str]) -> tuple[Sequence[QueueStats], Paused]:
    async with app:
        store = app.backend.store
        paused = await what_is_paused(store) if store is not None else {}
        found = list(await app.admin.stats(queues))
        silent = () if queues else sorted(set(filter(is_queue, paused)) - {queue.queue for queue in found})
        return [*found, *(await app.admin.stats(silent) if silent else ())], paused


def row(queue: QueueStats, paused: Paused) -> Sequence[object]:
    """A queue as a line of a table."""
    until = paused.get(queue.queue)
    mark = f"paused for {readable(until - time.time())}" if until is not None else "paused"
    oldest = readable(queue.oldest) if queue.oldest else ""
    counts = (queue.ready, queue.leased, queue.later, queue.dead)
    return (queue.queue, *counts, oldest, mark if queue.queue in paused else "")
