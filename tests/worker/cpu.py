"""What runs in child processes: those import this module by its name."""

import logging
import os
import sys
import time
from pathlib import Path

from taskq import RateLimit, Tasks, current
from taskq.errors import TaskqError

declared = Tasks()
SMTP, PROXY = RateLimit(1, per=3600, name="smtp"), RateLimit(100, name="proxy")
say = print


@declared.task(executor="process")
def declared_here(n: int) -> int:
    return -n


def square(n: int) -> list[int]:
    return [n * n, os.getpid()]


def fail(message: str) -> int:
    raise ValueError(message)


def stay(note: str) -> int:
    """Leave the process id in a file, and never come back."""
    part = Path(note + ".part")
    part.write_text(str(os.getpid()))
    part.rename(note)
    time.sleep(600)
    return 0


def hold(size: int, fails: bool = False) -> None:
    """Touch so many bytes for a moment."""
    held = b"x" * size
    if fails:
        raise MemoryError(f"after {len(held)} bytes")


def die() -> int:
    os._exit(9)


def heed(note: str) -> str:
    """Show signs of life until told to stop; leave a file at the first."""
    while not current().stopping:
        current().heartbeat()
        Path(note).touch()
        time.sleep(0.01)
    return f"{current().id} {current().attempt}"


def chat(dies: bool) -> None:
    """Say something in every way, and perhaps die in the middle of a line."""
    say("half", end="")
    say(" and half\n" + "x" * 200_000)
    logging.getLogger("shop").info("%d sheets \udc80", 3)
    say("no end", end="", file=sys.stderr)
    if dies:
        os._exit(9)


def wait_for(gate: str) -> str:
    """Say that it waits, and wait; which job a log record is of."""
    say("waiting")
    while not Path(gate).exists():
        time.sleep(0.01)
    record = logging.getLogger("shop").makeRecord("shop", logging.INFO, "", 0, "", (), None)
    return str(vars(record)["taskq_job"])


def name_granted() -> list[str]:
    """Which limit had room."""
    try:
        return [limit.name or "" for limit in (SMTP, PROXY) if limit in current().granted]
    except TaskqError as error:
        return [str(error)]


def reach_out() -> list[str]:
    """What a process of its own cannot do."""
    refused = list[str]()
    try:
        current().progress(1)
    except TaskqError as error:
        refused.append(str(error))
    try:
        assert current().batch is None
    except TaskqError as error:
        refused.append(str(error))
    return refused
