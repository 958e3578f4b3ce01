"""Runs the command as a user does: real processes, in a directory with an app and an SQLite file."""

import json
import os
import pty
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import Signals
from typing import Any

import anyio
import msgspec
from msgspec import Struct

from taskq.broker import Backend
from taskq.connect import connect
from taskq.job import DeadLetter, Job
from taskq.report import Ended, ErrorReport

PATIENCE = 60.0
"""Seconds that anything may take before a test gives up."""

APP = """
import asyncio
from pathlib import Path

from taskq import App, current

app = App(f"sqlite:///{Path(__file__).parent / 'queue.db'}")


@app.task(queue="mail", idempotent=True)
async def send(to: str, copies: int = 1) -> str:
    current().logger.info("on its way")
    return f"{copies} to {to}"


@app.task(queue="slow", idempotent=True)
async def wait_for(gate: str) -> None:
    await until_there(Path(gate))


async def until_there(path: Path) -> None:
    while not path.exists():
        await asyncio.sleep(0.01)


@app.task(queue="bad", retry=1)
async def fail(word: str) -> None:
    raise ValueError(word)
"""


class Ran(Struct, frozen=True):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> Sequence[Any]:
        """What it printed, from JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


class Program:
    """A command that still runs, and what it has written so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._coming: queue.Queue[str | None] = queue.Queue()
        self.pid = process.pid
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def line(self, *words: str) -> str:
        """The next line with all these words, waiting for it."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._coming.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"no line with {words} came after:\n{''.join(self.said)}"
            self.said.append(line)
            if all(word in line for word in words):
                return line

    def send(self, signal: Signals) -> None:
        """Send a signal."""
        self._process.send_signal(signal)

    def code(self) -> int:
        """Its exit code, waiting for its end."""
        code = self._process.wait(PATIENCE)
        while (line := self._coming.get(timeout=PATIENCE)) is not None:
            self.said.append(line)
        return code

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._coming.put(line)
        self._coming.put(None)


class Shell:
    """A directory with ``shop.py`` in it."""

    def __init__(self, directory: Path, url: str = "") -> None:
        self.directory = directory
        self.url = url or f"sqlite:///{directory / 'queue.db'}"
        (directory / "shop.py").write_text(APP)

    def run(self, *arguments: str, code: int = 0, stdin: str = "", **environment: str) -> Ran:
        """Run ``taskq ARGUMENTS`` to its end, which is to have this exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "taskq.cli", *arguments],
            cwd=self.directory,
            env=self._environment(environment),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str, code: int = 0) -> Sequence[Any]:
        """What ``taskq ARGUMENTS --json`` prints."""
        return self.run(*arguments, "--json", code=code).lines

    @contextmanager
    def started(self, *arguments: str, **environment: str) -> Generator[Program]:
        """``taskq ARGUMENTS``, killed at the end if it still runs."""
        with subprocess.Popen(
            [sys.executable, "-m", "taskq.cli", *arguments],
            cwd=self.directory,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield Program(process)
            finally:
                process.kill()

    def on_terminal(self, *arguments: str, columns: int = 200) -> str:
        """What ``taskq ARGUMENTS`` prints on a terminal, from its start to its end."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "taskq.cli", *arguments],
            cwd=self.directory,
            env=self._environment({"TERM": "xterm-256color", "COLUMNS": str(columns)}),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        printed = b""
        # Linux answers with an error, not with an end, once nobody holds the other side.
        with suppress(OSError):
            while part := os.read(ours, 65536):
                printed += part
        os.close(ours)
        assert process.wait(PATIENCE) == 0, printed.decode()
        return printed.decode()

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKQ_")}
        return {**kept, "TASKQ_URL": self.url, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200", **more}

    def enqueue(self, *jobs: Job) -> None:
        """Put jobs into the file."""
        anyio.run(self._enqueue, jobs)

    async def _enqueue(self, jobs: Sequence[Job]) -> None:
        async with connect(self.url) as backend:
            assert all(answer.added for answer in await backend.broker.enqueue(jobs))

    def bury(self, *jobs: Job, error: str = "ValueError: no") -> None:
        """Put dead letters into the file, which must hold no other ready jobs."""
        anyio.run(self._bury, jobs, error)

    async def _bury(self, jobs: Sequence[Job], error: str) -> None:
        await self._enqueue(jobs)
        async with connect(self.url) as backend:
            await bury(backend, jobs, error)


async def bury(backend: Backend, jobs: Sequence[Job], error: str) -> None:
    """Make dead letters of ready jobs."""
    kind, _, message = error.partition(": ")
    report = ErrorReport(kind, message, attempt=1, at=0.0, fingerprint=f"print-of-{kind}")
    outcome = msgspec.json.encode(Ended("failed", errors=[report]))
    deliveries = await backend.broker.fetch(sorted({job.queue for job in jobs}), len(jobs), lease=30.0, wait=0.0)
    assert {delivery.job.id for delivery in deliveries} == {job.id for job in jobs}
    assert all(await backend.broker.settle([DeadLetter(delivery.receipt, outcome) for delivery in deliveries]))


def job(
    id: str, queue: str = "mail", *, task: str = "shop.send", body: bytes = b'{"args":{"to":"ada"}}', **more: Any
) -> Job:
    """A job of ``shop.send``, unless said otherwise."""
    return Job(id=id, task=task, queue=queue, body=body, **more)
