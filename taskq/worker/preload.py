"""A process that has imported the app and forks workers of itself, which share the memory that this took.

It runs no thread and no event loop and has nothing open, so that there is nothing a fork could tear apart. What its
supervisor writes to its stdin is what it does; when that ends, so does it, and then its workers drain.
"""

import gc
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from taskq.errors import ConfigError
from taskq.worker.notify import notify

PRELOAD = "TASKQ_PRELOAD"
"""Set in the environment of such a process."""
FORK, TOOK_OVER = b"f", b"t"
"""What it may be asked for: another worker; to let one of them note that this code serves now."""
MOTHER, GONE, CODE = "X_TASKQ_MOTHER", "X_TASKQ_GONE", "X_TASKQ_CODE"
"""What the supervisor hears: a worker's, of which process it was born; and who of them ended how."""


def fork_workers() -> None:
    """Fork a worker whenever that is asked for, and return in it; ends the process that was asked.

    Raises ConfigError when the import of the app has left something that workers cannot share.
    """
    found = _unsafe()
    if found:
        raise ConfigError(
            f"--preload: importing the app has left {' and '.join(found)}, which forked workers cannot share: "
            "open them in the lifespan, or leave out --preload"
        )
    gc.disable()
    gc.collect()
    # The collector would write to every object it looks at, and so make each process a copy of its page.
    gc.freeze()
    lifeline, ours = os.pipe()
    told, telling = os.pipe()
    os.set_blocking(telling, False)
    # Heeded, or the pipe would not be told.
    signal.signal(signal.SIGCHLD, _heed)
    signal.set_wakeup_fd(telling)
    while _serve(told, ours):
        if not os.fork():
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            os.dup2(lifeline, sys.stdin.fileno())
            for descriptor in (lifeline, ours, told, telling):
                os.close(descriptor)
            gc.enable()
            # By itself, not by its parent: what it tells later must not come first.
            notify(**{MOTHER: os.getppid()})
            return
    os._exit(0)


def _heed(number: int, frame: object) -> None:
    """That it came is in the pipe."""


def _serve(told: int, lifeline: int) -> bool:
    """Do what is asked until a worker is to be forked; False when nobody asks any more."""
    stdin = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([stdin, told], [], [])
        if told in ready:
            os.read(told, 1024)
            _reap()
        if stdin in ready:
            asked = os.read(stdin, 1)
            if asked != TOOK_OVER:
                return asked == FORK
            os.write(lifeline, TOOK_OVER)


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        notify(**{GONE: pid, CODE: os.waitstatus_to_exitcode(status)})


def _unsafe() -> Sequence[str]:
    """What there is that a fork would leave behind or share."""
    found: list[str] = []
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        found.append(f"threads ({', '.join(names) or 'not of Python'})")
    descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    sockets = [number for number in descriptors if number > 2 and _is_socket(number)]
    return [*found, f"{len(sockets)} open sockets"] if sockets else found


def _is_socket(descriptor: int) -> bool:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith("socket:")
    except OSError:
        return False
