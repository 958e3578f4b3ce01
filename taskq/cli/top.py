"""``taskq top``: queues, workers and jobs, live."""

import sys

import click

from taskq.cli.audit import by_option
from taskq.cli.output import url_option


@click.command()
@by_option
@url_option
def top(by: str, url: str | None) -> None:
    """Watch queues, workers and jobs, and act on them by key."""
    if not sys.stdout.isatty():
        raise click.UsageError(
            "top draws on a terminal: elsewhere use taskq stats, taskq workers, taskq jobs, with --json"
        )
    try:
        from taskq.cli.live import Live
    except ImportError:
        raise click.UsageError("top needs textual: pip install 'taskq-async[top]'") from None
    failure = Live(url, by).run()
    if failure is not None:
        raise failure
