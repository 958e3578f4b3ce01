"""``taskq bench``: how fast one's own deployment is, and what to change."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import anyio
import click
import msgspec

from taskq.broker import Traits
from taskq.cli.output import json_option, write_json, write_table
from taskq.cli.speed import SECONDS, Measuring, Speed, advise, busy_machine

STEPS = 5


@click.command()
@click.argument("url", required=False)
@click.option("--seconds", type=click.FloatRange(0.01, 600), default=SECONDS, help="For each of five questions, about.")
@json_option
def bench(url: str | None, seconds: float, as_json: bool) -> None:
    """Measure a broker, and say what to change.

    The broker is the one that URL names, or the settings. It takes about a minute. Jobs go to a queue of their own,
    which is empty again afterwards; others feel the load.
    """
    options = {"use_uvloop": find_spec("uvloop") is not None}
    with _progress(silent=as_json) as step:
        traits, speed = anyio.run(_measure, url, step, seconds, backend_options=options)
    advice = advise(traits, speed, busy=busy_machine())
    if as_json:
        write_json({**msgspec.structs.asdict(speed), "advice": advice})
        return
    write_table(("", "", ""), _rows(speed))
    for one in advice:
        click.echo(f"{one.finding}: {one.remedy}")


async def _measure(url: str | None, step: Callable[[str], None], seconds: float) -> tuple[Traits, Speed]:
    return await Measuring(url).measure(step, seconds)


def _rows(speed: Speed) -> Sequence[Sequence[str]]:
    times = {"round trip of a defer": speed.round_trip}
    times |= {
        f"from defer to start, p{share}": value for share, value in ((50, speed.p50), (95, speed.p95), (99, speed.p99))
    }
    rates = {
        "defer, one by one": speed.one_by_one,
        "defer, 100 in flight": speed.in_flight,
        "defer, 1,000 a call": speed.in_bulk,
        "process, one worker": speed.processed,
    }
    return [
        *((name, f"{rate:,.0f}", "jobs/s") for name, rate in rates.items()),
        *((name, f"{seconds * 1e3:,.2f}", "ms") for name, seconds in times.items()),
        ("CPU of the worker", f"{speed.worker_cpu:.0%}", "of a core"),
    ]


@contextmanager
def _progress(*, silent: bool) -> Generator[Callable[[str], None]]:
    """A bar on a terminal, a line a step elsewhere."""
    if silent or not sys.stderr.isatty():
        yield lambda name: None if silent else click.echo(f"{name} ...", err=True)
        return
    # Here and not above: a worker draws nothing, and must not carry what draws.
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        drawn = bar.add_task("", total=STEPS)
        begun = 0

        def step(name: str) -> None:
            nonlocal begun
            bar.update(drawn, description=name, completed=begun)
            begun += 1

        yield step
