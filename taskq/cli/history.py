"""``taskq history``: what became of jobs, and how long they waited and ran."""

import time
from collections.abc import Iterator, Mapping, Sequence

import anyio
import click

from taskq.app import App
from taskq.cli.durations import duration, readable
from taskq.cli.output import json_option, one_line, url_option, write_json, write_table
from taskq.history import Past, look_back
from taskq.history.tally import AGAIN, Counts, Key, quantile

TITLES = ("queue", "task", "returned", "failed", "other", "again", "waited 50/95/99%", "ran 50/95/99%", "ended")
SHARES = (0.5, 0.95, 0.99)
COLUMNS = 24
_FAILED = ("failed", "quarantined", "lost")
_BARS = " ▁▂▃▄▅▆▇█"


@click.command()
@click.option("--queue", help="Of this queue.")
@click.option("--task", help="Of this task.")
@click.option("--since", type=duration, default="24h", show_default=True, help="How far to look back.")
@url_option
@json_option
def history(queue: str | None, task: str | None, since: float, url: str | None, as_json: bool) -> None:
    """Tell what became of jobs, by queue and task.

    failed: also quarantined and lost. other: discarded, cancelled, expired. again: runs that used up an attempt and
    were not the last. Workers write once a minute. ▲: what `taskq mark` noted, and rollouts.
    """
    past = anyio.run(_look, url, since, queue, task)
    if as_json:
        for key, counts in past.totals.items():
            write_json(_fields(past, key, counts))
        for mark in past.marks:
            write_json({"mark": mark.label, "at": mark.at})
    elif past.totals or past.marks:
        write_table(TITLES, [*(_row(past, key, counts) for key, counts in past.totals.items()), *_marks(past)])
        for mark in past.marks:
            click.echo(f"▲ {time.strftime('%Y-%m-%d %H:%M', time.localtime(mark.at))}  {one_line(mark.label)}")
    else:
        click.echo(f"Nothing is known of the last {readable(since)}.")


async def _look(url: str | None, since: float, queue: str | None, task: str | None) -> Past:
    async with App(url) as app:
        return await look_back(app.store, since, queue=queue, task=task)


def _row(past: Past, key: Key, counts: Counts) -> Sequence[object]:
    returned, failed = counts.ends.get("returned", 0), sum(counts.ends.get(end, 0) for end in _FAILED)
    other = counts.ended - returned - failed
    times = [_times(histogram) for histogram in (counts.waits, counts.runs)]
    return (*key, returned, failed, other, counts.ends.get(AGAIN, 0), *times, bars(past.course(key, COLUMNS)))


def _marks(past: Past) -> Iterator[Sequence[object]]:
    """Where in the course of time something was noted."""
    if past.marks:
        there = {past.part_of(mark.at, COLUMNS) for mark in past.marks}
        yield (*[""] * (len(TITLES) - 1), "".join("▲" if part in there else " " for part in range(COLUMNS)))


def _times(histogram: Mapping[int, int]) -> str:
    return " ".join(_short(quantile(histogram, share)) for share in SHARES)


def _short(seconds: float | None) -> str:
    """``3ms``, ``1.5s``, ``12m``."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else readable(seconds).replace(" ", "")


def bars(counts: Sequence[int]) -> str:
    """A line of bars, the highest for the most; where there is none there was nothing."""
    most = max(counts, default=0)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most) if count > 0 else 0] for count in counts)


def _fields(past: Past, key: Key, counts: Counts) -> dict[str, object]:
    queue, task = key
    times = {
        name: {f"p{share * 100:.0f}": quantile(histogram, share) for share in SHARES}
        for name, histogram in (("wait", counts.waits), ("run", counts.runs))
    }
    course = {start: tally[key].ends for start, tally in past.slices.items() if key in tally}
    return {
        "queue": queue,
        "task": task,
        "since": past.since,
        "until": past.until,
        "ended": counts.ended,
        "ends": counts.ends,
        **times,
        "slices": course,
    }
