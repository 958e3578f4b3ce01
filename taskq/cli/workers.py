"""``taskq workers``: who works, and what they are asked to do."""

from collections.abc import Sequence
from typing import cast

import anyio
import click
import msgspec

from taskq.app import App
from taskq.cli.audit import by_option, noted
from taskq.cli.durations import readable
from taskq.cli.exits import FAILED
from taskq.cli.output import json_option, url_option, write_json, write_table
from taskq.worker.register import ORDERS, Entry, Order, ask, workers

TITLES = ("worker", "state", "slots", "queues", "lag", "memory", "up", "longest job")


@click.group("workers", invoke_without_command=True)
@url_option
@json_option
@click.pass_context
def workers_group(context: click.Context, url: str | None, as_json: bool) -> None:
    """List workers, and ask things of them."""
    if context.invoked_subcommand is not None:
        return
    found = anyio.run(_look, url)
    if as_json:
        for entry in found:
            write_json(msgspec.structs.asdict(entry))
    elif found:
        write_table(TITLES, [row(entry) for entry in found])
    else:
        click.echo("No worker tells of itself here.")


@workers_group.command("ask")
@click.argument("order", type=click.Choice(ORDERS))
@click.argument("ids", metavar="WORKER...", nargs=-1, required=True)
@by_option
@url_option
def ask_command(order: str, ids: Sequence[str], by: str, url: str | None) -> int:
    """Ask workers to fetch nothing for now (quiet), to go on (resume), to end (drain), or to log what runs (dump).

    WORKER is an id that `taskq workers` lists, or `all`.
    """
    reached = anyio.run(_ask, url, cast("Order", order), ids, by)
    for worker, there in reached.items():
        click.echo(f"{worker}: asked to {order}" if there else f"{worker}: there is no such worker")
    return 0 if all(reached.values()) and reached else FAILED


def row(entry: Entry) -> Sequence[object]:
    """An entry as a line of a table."""
    longest = entry.jobs[0] if entry.jobs else None
    return (
        entry.id,
        entry.state,
        f"{entry.running}/{entry.slots}" + (f" of {entry.slots + entry.withheld}" if entry.withheld else ""),
        ",".join(entry.queues),
        f"{1000 * entry.lag:.0f} ms",
        f"{entry.memory >> 20} MiB",
        readable(entry.up),
        f"{longest.task} {readable(longest.seconds)}" if longest is not None else "",
    )


async def _look(url: str | None) -> Sequence[Entry]:
    async with App(url) as app:
        return await workers(app.store, app.backend.hints)


async def _ask(url: str | None, order: Order, ids: Sequence[str], by: str) -> dict[str, bool]:
    async with App(url) as app:
        await noted(app, order, *(f"worker {worker}" for worker in ids), by=by)
        store, hints = app.store, app.backend.hints
        if "all" in ids:
            ids = [entry.id for entry in await workers(store, hints)]
        return {worker: await ask(store, hints, worker, order) for worker in ids}
