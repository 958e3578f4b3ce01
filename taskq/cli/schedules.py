"""``taskq schedules``: what is due when, what was decided, and what an operator may do about it."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar
from zoneinfo import ZoneInfo

import anyio
import click

from taskq.app import App
from taskq.audit import KEPT, acts_since
from taskq.cli.audit import by_option
from taskq.cli.durations import from_now, readable
from taskq.cli.load import APP, load_app
from taskq.cli.output import json_option, url_option, write_json, write_table
from taskq.plan import Decided
from taskq.schedules import Listed

T = TypeVar("T")
A = TypeVar("A", covariant=True)
F = TypeVar("F", bound=Callable[..., object])

TITLES = ("name", "when", "task", "next", "last", "")


class Act(Protocol[A]):
    """What is done by hand to a schedule."""

    async def __call__(self, name: str, *, by: str) -> A: ...


def where_options(command: F) -> F:
    """``--app`` and ``--url``."""
    option = click.option(
        "--app", "target", envvar="TASKQ_APP", show_envvar=True, metavar=APP, help="Its schedules, too."
    )
    return option(url_option(command))


@click.group()
def schedules() -> None:
    """List, preview, pause, resume, run and remove schedules.

    Those made at run time are known to every command; those of the code with --app.
    """


@schedules.command("list")
@where_options
@json_option
def list_schedules(target: str | None, url: str | None, as_json: bool) -> None:
    """List schedules by name."""
    found = _on(target, url, lambda app: app.schedules.list())
    if as_json:
        for listed in found:
            write_json(_listed_json(listed))
    elif found:
        write_table(TITLES, [_row(listed) for listed in found])
    else:
        click.echo(f"There are no schedules{'' if target else ', but perhaps in an app: say --app'}.")


@schedules.command("next")
@click.argument("name")
@click.option("--count", "-n", type=click.IntRange(1, 1000), default=10, show_default=True, help="So many.")
@where_options
@json_option
def next_ticks(name: str, count: int, target: str | None, url: str | None, as_json: bool) -> None:
    """Tell when schedule NAME is due, by the clock of its zone."""
    listed = _on(target, url, lambda app: _found(app, name))
    for tick in listed.upcoming(count):
        if as_json:
            write_json({"name": name, "tick": tick, "local": _local(listed, tick)})
        else:
            click.echo(f"{_local(listed, tick)}  {from_now(tick, listed.now)}")


@schedules.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="So many of the newest.")
@where_options
@json_option
def history(name: str, limit: int, target: str | None, url: str | None, as_json: bool) -> None:
    """Tell what was decided about the ticks of schedule NAME, the newest last."""
    listed = _on(target, url, lambda app: _found(app, name))
    decided = listed.state.history[-limit:]
    if as_json:
        for each in decided:
            write_json(each)
    elif decided:
        rows = [(_ticks(listed, each), each.verdict, f"by {each.by}" if each.by else each.reason) for each in decided]
        write_table(("tick", "verdict", "reason"), rows)
    else:
        click.echo(f"Nothing was decided about {name} yet.")


@schedules.command()
@click.argument("name")
@by_option
@where_options
@json_option
def pause(name: str, by: str, target: str | None, url: str | None, as_json: bool) -> None:
    """Let the ticks of schedule NAME pass."""
    _on(target, url, lambda app: _act(app, name, app.schedules.pause, by))
    _say({"name": name, "paused": True}, f"{name}: paused until resumed", as_json=as_json)


@schedules.command()
@click.argument("name")
@by_option
@where_options
@json_option
def resume(name: str, by: str, target: str | None, url: str | None, as_json: bool) -> None:
    """Let schedule NAME go on with its next tick."""
    _on(target, url, lambda app: _act(app, name, app.schedules.resume, by))
    _say({"name": name, "paused": False}, f"{name}: goes on", as_json=as_json)


@schedules.command()
@click.argument("name")
@by_option
@where_options
@json_option
def run(name: str, by: str, target: str | None, url: str | None, as_json: bool) -> None:
    """Enqueue a job of schedule NAME now, and print its id."""
    enqueued = _on(target, url, lambda app: _act(app, name, app.schedules.run, by))
    _say({"name": name, "id": enqueued.id, "added": enqueued.added}, enqueued.id, as_json=as_json)


@schedules.command()
@click.argument("name")
@by_option
@where_options
@json_option
def remove(name: str, by: str, target: str | None, url: str | None, as_json: bool) -> None:
    """Remove schedule NAME, which was made at run time, with its history."""
    if not _on(target, url, lambda app: _act(app, name, app.schedules.remove, by)):
        raise click.ClickException(f"schedule {name} is of the code: remove it there, or pause it")
    _say({"name": name, "removed": True}, f"{name}: removed", as_json=as_json)


def _on(target: str | None, url: str | None, act: Callable[[App], Awaitable[T]]) -> T:
    if target is not None and url is not None:
        raise click.UsageError("--app says which broker: give --app or --url")

    async def opened() -> T:
        async with App(url) if target is None else load_app(target) as app:
            return await act(app)

    return anyio.run(opened)


async def _found(app: App, name: str) -> Listed:
    every = {listed.schedule.name: listed for listed in await app.schedules.list()}
    if name not in every:
        known = f"there is no schedule {name!r} (known: {', '.join(every) or 'none'})"
        raise click.ClickException(known + await _removal(app, name))
    return every[name]


async def _removal(app: App, name: str) -> str:
    """Who has removed a schedule that is not there, as far as that is remembered."""
    acts = [act for act in await acts_since(app.store, KEPT) if act.what == f"schedule {name}"]
    if not acts or acts[-1].verb != "remove":
        return ""
    at = datetime.fromtimestamp(acts[-1].at).astimezone().isoformat(" ", "seconds")
    return f"; {acts[-1].by or 'somebody'} removed it at {at}: `taskq audit --about {name}` tells all"


async def _act(app: App, name: str, act: Act[T], by: str) -> T:
    await _found(app, name)
    return await act(name, by=by)


def _say(value: object, text: str, *, as_json: bool) -> None:
    if as_json:
        write_json(value)
    else:
        click.echo(text)


def _listed_json(listed: Listed) -> object:
    schedule, state = listed.schedule, listed.state
    upcoming = listed.upcoming(1)
    return {
        "name": schedule.name,
        "source": listed.source,
        "when": _when(listed),
        "tz": schedule.timetable.timing.tz,
        "task": schedule.job.task,
        "queue": schedule.job.queue,
        "paused": state.paused,
        "next": upcoming[0] if upcoming else None,
        "last": state.history[-1] if state.history else None,
    }


def _row(listed: Listed) -> Sequence[object]:
    upcoming, state = listed.upcoming(1), listed.state
    following = from_now(upcoming[0], listed.now) if upcoming else "never"
    last = f"{state.history[-1].verdict} {from_now(state.history[-1].at, listed.now)}" if state.history else ""
    paused = "paused" if state.paused else ""
    return (listed.schedule.name, _when(listed), listed.schedule.job.task, following, last, paused)


def _when(listed: Listed) -> str:
    timing = listed.schedule.timetable.timing
    return timing.cron if timing.cron is not None else f"every {readable(timing.every or 0)}"


def _local(listed: Listed, tick: float) -> str:
    return datetime.fromtimestamp(tick, ZoneInfo(listed.schedule.timetable.timing.tz)).isoformat(" ", "seconds")


def _ticks(listed: Listed, decided: Decided) -> str:
    if decided.until is None:
        return _local(listed, decided.tick)
    return f"{_local(listed, decided.tick)} to {_local(listed, decided.until)} ({decided.count or 'many'})"
