"""Becomes the command after it, as a process that dies with its parent: ``owned.py PARENT USER COMMAND...``.

Run by :mod:`tests.servers.process` as a program of its own, because a ``preexec_fn`` is unsafe where there are threads.
USER is a name to become first, or empty.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(parent: int, user: str, command: list[str]) -> None:
    """Runs ``command`` in place of this process, and never returns."""
    if user:
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    if sys.platform == "linux":
        # After setuid, which would clear it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:  # else it died before we asked to be told
        os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
