"""One server process that a test owns: started, killed, stopped, paused, restarted, and never left behind."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

OWNED = Path(__file__).with_name("owned.py")


class ServerFailed(Exception):
    """A server did not start, or did not stop; the message ends with its log."""


class Account(Struct, frozen=True):
    """Who a server runs as: a ``user`` to become, or a command in front that does it. By default, who we are."""

    user: str = ""
    prefix: tuple[str, ...] = ()


def free_ports() -> Iterator[int]:
    """Loopback ports that are free at this moment, each with the one above it (a cluster node takes two).

    They lie below the range that the kernel gives to outgoing connections, so that no client takes the port of a
    server that is down, or connects to itself while it tries again. Each process of a test run has ports of its own, so
    that none of its servers is started on the port of another's that is down.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = range(12_000 + 2 * worker, 32_000, 2 * workers)
    for port in random.sample(ports, len(ports)):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
        yield port


class Process:
    """A server on a loopback port of its own, which it keeps over restarts, so that clients find it again.

    It is killed when this process ends, however it ends, and when the *thread* that started it ends: start it from the
    main thread. Its output is kept in ``log``.
    """

    def __init__(
        self,
        directory: Path,
        command: Callable[[int], Sequence[str]],
        *,
        url: str,
        answers: Callable[["Process"], bool],
        account: Account = Account(),  # noqa: B008 a frozen value
        stop_signal: signal.Signals = signal.SIGTERM,
        ports: Iterator[int] | None = None,
    ) -> None:
        """Starts nothing yet. ``command`` and ``url`` (with ``{port}``) are told the port once it is chosen.

        ``answers`` says whether the server is ready; it is asked until it is. ``stop_signal`` is the gentle one.
        """
        self.directory = directory
        self.port = 0
        self._command = command
        self._url = url
        self._answers = answers
        self._account = account
        self._stop_signal = stop_signal
        self._ports = ports or free_ports()
        self._log = directory / "server.log"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return self._url.format(port=self.port)

    @property
    def pid(self) -> int:
        """The process id of a running server."""
        if self._child is None:
            raise ServerFailed(f"{self._url} is not running")
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def log(self, since: int = 0) -> str:
        """What the server printed, from all its starts; ``since`` leaves out so many characters."""
        return self._log.read_text(errors="replace")[since:] if self._log.exists() else ""

    def start(self, *, patience: float = 30.0) -> None:
        """Returns when the server answers. The first start looks for a port, and takes another if it was too late."""
        if self.running:
            raise ServerFailed(f"{self.url} is running already")
        for port in [self.port] if self.port else self._ports:
            self.port = port
            before = len(self.log())
            if self._launch(patience):
                return
            said = self.log(before)
            if "address already in use" not in said.casefold():
                break
        raise ServerFailed(f"{self.url} did not start:\n{self.log()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL to the server and its children; all of them are gone when this returns."""
        child, self._child = self._child, None
        if child is None or child.poll() is not None:
            return
        halt(child.pid)  # so that it neither forks nor notices while its children go
        family = descendants(child.pid)
        for pid in family:
            send(pid, signal.SIGKILL)
        child.kill()
        child.wait()
        wait_until(lambda: all(state(pid) in "ZX" for pid in family), 10.0)

    def stop(self, how: signal.Signals | None = None, *, patience: float = 30.0) -> None:
        """Asks the server to end, and returns when it has."""
        send(self.pid, how or self._stop_signal)
        if not wait_until(lambda: not self.running, patience):
            self.kill()
            raise ServerFailed(f"{self.url} did not stop:\n{self.log()[-4000:]}")
        self._child = None

    def pause(self) -> None:
        """SIGSTOP to the server and its children: connections stay open, and nothing answers."""
        halt(self.pid)
        for pid in descendants(self.pid):
            halt(pid)

    def resume(self) -> None:
        """Undoes :meth:`pause`."""
        for pid in [*descendants(self.pid), self.pid]:
            send(pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        if error is not None:
            print(f"--- {self.url}\n{self.log()}")  # noqa: T201 pytest shows it with the failure

    def _launch(self, patience: float) -> bool:
        """True when it answers, False when it ended by itself."""
        owned = [sys.executable, "-IS", str(OWNED), str(os.getpid()), self._account.user]
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [*owned, *self._account.prefix, *self._command(self.port)],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: not self.running or self._answers(self), patience)
        if not self.running:
            self._child = None
        elif not self._answers(self):
            self.kill()
        return self.running


def wait_until(true: Callable[[], bool], patience: float) -> bool:
    """Whether it became true in time. It asks again and again: nothing outside tells us when a server is ready."""
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def package(name: str) -> Path:
    """Where an installed package lies, found without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ServerFailed(f"{name} is not installed: run `make setup`")
    return Path(spec.origin).parent


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it ended meanwhile
            for child in path.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def state(pid: int) -> str:
    """The kernel's letter for what a process does: T is stopped, Z dead and not yet reaped; X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def send(pid: int, what: signal.Signals) -> None:
    """Sends a signal to a process that may have ended meanwhile."""
    with suppress(ProcessLookupError):
        os.kill(pid, what)


def halt(pid: int) -> None:
    """Returns when a process has stopped, or is gone."""
    send(pid, signal.SIGSTOP)
    wait_until(lambda: state(pid) in "TZX", 10.0)
