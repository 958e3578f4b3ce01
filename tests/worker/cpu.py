"""What runs in child processes: those import this module by its name."""

import os
import time
from pathlib import Path

from taskq import Tasks

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


def die() -> int:
    os._exit(9)
