"""``taskq demo``: two hundred jobs on a file that is gone afterwards."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import click

from taskq.app import App
from taskq.broker import QueueStats
from taskq.cli.output import json_option, write_json, write_table
from taskq.events import JobAgain, JobFinished
from taskq.retry import Retry, steps
from taskq.task import Task

JOBS = 200
QUEUES = ("mail", "thumbnails", "feeds")
COLOURS = ("yellow", "cyan", "blue", "red")
LEGEND = "           [yellow]running[/]  [cyan]ready[/]  [blue]to be tried again[/]  [red]dead[/]\n"
TITLES = ("queue", "ready", "leased", "later", "dead")

NEXT = """
The same for you, in shop.py:

    from taskq import App

    app = App("sqlite:///shop.db")

    @app.task(queue="mail", retry=5)
    async def send_mail(to: str) -> None:
        print("mail to", to)

    taskq defer shop.send_mail '{"to": "ada@example.org"}' --app shop
    taskq worker shop:app
"""


@click.command()
@json_option
def demo(as_json: bool) -> None:
    """Defer 200 jobs, work them off, watch.

    It needs no server and no set-up, and leaves nothing behind.
    """
    with TemporaryDirectory() as directory:
        counts = anyio.run(_show, Path(directory), as_json)
    if as_json:
        write_json(counts)
        return
    click.echo(
        f"{counts['ended']} jobs in {counts['seconds']:.1f} s: {counts['returned']} returned, {counts['retries']} runs "
        f"failed and were tried again, {counts['failed']} failed for good and lie in the queue's dead letters."
    )
    click.echo(NEXT)


async def _show(directory: Path, as_json: bool) -> dict[str, float]:
    app, tasks = make_app(directory)
    counts: Counter[str] = Counter()
    app.events.subscribe(JobAgain, lambda _: counts.update(["retries"]))
    app.events.subscribe(JobFinished, lambda event: counts.update(["ended", event.end]))
    async with app:
        began = time.monotonic()
        await app.defer_many(tasks[number % len(tasks)].call(number) for number in range(JOBS))
        deferred = time.monotonic() - began
        if not as_json:
            click.echo(f"{JOBS} jobs deferred in {deferred * 1000:.0f} ms to {directory / 'demo.db'}; a worker starts.")
        async with anyio.create_task_group() as group:
            with _screen(silent=as_json) as draw:
                group.start_soon(_look, app, draw)
                await app.run_worker(until="empty")
                draw(await app.admin.stats(QUEUES))
            group.cancel_scope.cancel()
        return {"returned": 0, "failed": 0, "retries": 0, "seconds": time.monotonic() - began, **counts}


def make_app(directory: Path) -> tuple[App, Sequence[Task[[int], None]]]:
    """An app with a task that is well, one in a thread that fails for good now and then, one that fails at first."""
    app = App(f"sqlite:///{directory / 'demo.db'}", slots=20, threads=20, queues=QUEUES)

    @app.task(queue="mail", name="send_mail", idempotent=True)
    async def send_mail(number: int) -> None:
        await anyio.sleep(0.1 + number % 7 / 10)

    @app.task(queue="thumbnails", name="make_thumbnail", idempotent=True, retry=1)
    def make_thumbnail(number: int) -> None:
        time.sleep(0.2)
        if number % 40 == 1:
            raise ValueError(f"image {number} is broken")

    failed: set[int] = set()

    @app.task(queue="feeds", name="fetch_feed", idempotent=True, retry=Retry(3, steps(0.5, 1.0)))
    async def fetch_feed(number: int) -> None:
        await anyio.sleep(0.3)
        if number % 4 == 0 and number not in failed:
            failed.add(number)
            raise ConnectionError(f"feed {number} does not answer")

    return app, (send_mail, make_thumbnail, fetch_feed)


async def _look(app: App, draw: Callable[[Sequence[QueueStats]], None]) -> None:
    while True:
        draw(await app.admin.stats(QUEUES))
        await anyio.sleep(0.1)  # What is counted changes all the time; ten pictures a second are enough.


@contextmanager
def _screen(*, silent: bool) -> Generator[Callable[[Sequence[QueueStats]], None]]:
    """Something that draws the queues: in place on a terminal, once at the end elsewhere."""
    last: Sequence[QueueStats] = ()

    def keep(queues: Sequence[QueueStats]) -> None:
        nonlocal last
        last = queues

    if silent or not sys.stdout.isatty():
        yield keep
        if not silent:
            write_table(TITLES, [(queue.queue, queue.ready, queue.leased, queue.later, queue.dead) for queue in last])
        return
    # Here and not above: a worker draws nothing, and must not carry what draws.
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        yield lambda queues: live.update("\n".join([*map(_bar, queues), LEGEND]), refresh=True)


def _bar(queue: QueueStats) -> str:
    counts = (queue.leased, queue.ready, queue.later, queue.dead)
    # A block for two jobs: a queue's third of all fits a terminal of 80 columns.
    blocks = [f"[{colour}]{'█' * ceil(number / 2)}[/]" for colour, number in zip(COLOURS, counts, strict=True)]
    return f"{queue.queue:>10} {''.join(blocks)} {sum(counts)}"
