"""``taskq rollout``: new code beside the old, which makes way only when the new one works."""

import os
import signal
import time
from pathlib import Path

import click

from taskq.cli.durations import duration
from taskq.cli.exits import FAILED
from taskq.cli.processes import read_state


@click.command()
@click.argument("state_file", metavar="STATE_FILE", type=click.Path(path_type=Path))
@click.option("--timeout", type=duration, default="5m", show_default=True, help="How long to wait for its end.")
def rollout(state_file: Path, timeout: float) -> int:
    """Roll out the code as it is now, without a gap.

    STATE_FILE is that of the running `taskq worker --processes N --state-file STATE_FILE`. New processes start beside
    the old, which make way once the new ones work: they fetch no more and finish what they run, however long. When a
    new one ends before the gate is passed, the old ones go on, and this command fails.
    """
    before = read_state(state_file)
    if before.phase != "serving":
        click.echo(f"not now: the supervisor is {before.phase}", err=True)
        return FAILED
    os.kill(before.pid, signal.SIGUSR2)
    until = time.monotonic() + timeout
    while (state := read_state(state_file)).rollouts == before.rollouts:
        if time.monotonic() > until:
            click.echo(f"no end after {timeout:g} s: the supervisor is {state.phase}", err=True)
            return FAILED
        # Another process's state can only be asked after.
        time.sleep(0.1)
    if state.failure is not None:
        click.echo(f"failed, the old code goes on: {state.failure}", err=True)
        return FAILED
    click.echo(f"generation {state.generation} serves")
    return 0
