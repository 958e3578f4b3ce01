"""``taskq pause``: let workers leave queues, tasks, tenants or tags alone."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar, Unpack

import anyio
import click

from taskq.app import App
from taskq.cli.audit import by_option
from taskq.cli.durations import duration, readable
from taskq.cli.output import json_option, url_option, write_json
from taskq.options import check_queue, check_task
from taskq.tags import check_tags

F = TypeVar("F", bound=Callable[..., Any])


def selection(command: F) -> F:
    """``[QUEUE...] [--task NAME]... [--tenant NAME]... [--tag NAME]...``"""
    for option in (
        click.option("--tag", "tags", multiple=True, metavar="NAME", help="Of this tag."),
        click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="Of this tenant."),
        click.option("--task", "tasks", multiple=True, metavar="NAME", help="Of this task."),
        click.argument("queues", metavar="[QUEUE...]", nargs=-1),
    ):
        command = option(command)
    return command


class Selected(TypedDict):
    """What is paused or resumed, as the app is told it."""

    tasks: Sequence[str]
    tenants: Sequence[str]
    tags: Sequence[str]


def checked(queues: Sequence[str], selected: Selected) -> Sequence[tuple[str, str]]:
    """What was selected, each with what it is. Raises UsageError for nothing, ConfigError for what cannot be."""
    if not (queues or any(selected.values())):
        raise click.UsageError("name a queue, a --task, a --tenant or a --tag")
    return [
        *(("queue", check_queue(name)) for name in queues),
        *(("task", check_task(name)) for name in selected["tasks"]),
        *(("tenant", name) for name in selected["tenants"]),
        *(("tag", tag) for name in selected["tags"] for tag in check_tags(name)),
    ]


def tell(selected: Sequence[tuple[str, str]], words: str, facts: dict[str, object], *, as_json: bool) -> None:
    """A line or an object for each."""
    for kind, name in selected:
        if as_json:
            write_json({kind: name, **facts})
        else:
            click.echo(f"{name if kind == 'queue' else f'{kind} {name}'}: {words}")


@click.command()
@selection
@click.option("--for", "seconds", type=duration, metavar="10m", help="Resume by itself after so long.")
@by_option
@url_option
@json_option
def pause(
    queues: Sequence[str], seconds: float | None, by: str, url: str | None, as_json: bool, **selected: Unpack[Selected]
) -> None:
    """Let all workers leave queues, tasks, tenants or tags alone.

    They know within a second. What runs goes on.
    """
    named = checked(queues, selected)

    async def act() -> None:
        async with App(url) as app:
            await app.pause(*queues, **selected, seconds=seconds, by=by)

    anyio.run(act)
    words = f"paused {'until resumed' if seconds is None else f'for {readable(seconds)}'}"
    tell(named, words, {"paused": True, "seconds": seconds}, as_json=as_json)
