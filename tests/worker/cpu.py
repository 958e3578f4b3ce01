"""What runs in child processes: those import this module by its name."""

import os
import time
from pathlib import Path

from taskq import Tasks, current
from taskq.errors import TaskqError

declared = Tasks()


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
