"""Runs one side's program once, and judges whether the run counts."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, Missing, command_of
from benchmarks.grounds import Ground
from benchmarks.sides import Side

PATIENCE = 60.0
LEAST_RATE = 5_000.0
"""Jobs a second by which a large order has more of it."""


class Uncounted(Exception):
    """A run that failed, or whose ledger is not clean."""


class Program:
    """A program that runs: its first line tells that the first job ran, its last one is the answer."""

    def __init__(self, side: Side, ground: Ground, url: str, role: str, **order: Any) -> None:
        said: dict[str, Any] = {"role": role, "url": url, "slots": side.slots, "server": ground.pid}
        self._patience = PATIENCE + order.get("jobs", 0) / LEAST_RATE
        said |= {"options": side.options, "patience": self._patience, **order}
        command = [*command_of(side.environment, side.program), json.dumps(said)]
        self._name = f"{side.name} ({role})"
        self._child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def first(self) -> None:
        """Returns when it has run its first job."""
        assert self._child.stdout is not None
        if "first\n" not in self._child.stdout:
            raise Uncounted(f"{self._name}: no job ran")

    def answer(self) -> dict[str, Any]:
        """What it found, once it has ended. Raises Uncounted, and Missing for what its library cannot do."""
        try:
            out, errors = self._child.communicate(timeout=self._patience + 30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Uncounted(f"{self._name}: it did not end") from None
        lines = [line for line in out.splitlines() if line.startswith("{")]
        if self._child.returncode or not lines:
            raise Uncounted(f"{self._name}: {' | '.join(errors.splitlines()[-3:])}")
        answer: dict[str, Any] = json.loads(lines[-1])
        if "missing" in answer:
            raise Missing(answer["missing"])
        dirty = {name: answer[name] for name in ("lost", "duplicated", "unexplained") if answer.get(name)}
        if not answer.get("complete", True):
            dirty["complete"] = False
        if dirty:
            raise Uncounted(f"{self._name}: {dirty}")
        return answer

    def rss(self) -> float:
        """MiB that it takes now, without its children."""
        return int(Path(f"/proc/{self._child.pid}/statm").read_text(encoding="ascii").split()[1]) * 4096 / 2**20

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if self._child.returncode is None:
            self._child.kill()
            self._child.communicate()


def do(side: Side, ground: Ground, url: str, role: str, **order: Any) -> dict[str, Any]:
    """What a program answers."""
    program = Program(side, ground, url, role, **order)
    try:
        return program.answer()
    except BaseException:
        program.kill()
        raise


def prepare(side: Side, ground: Ground) -> None:
    """Its environment, and its schema. Raises Missing with the reason."""
    command_of(side.environment, side.program)
    try:
        do(side, ground, ground.blank(side.program), "setup")
    except Missing:
        return  # It needs none.
    except Uncounted as error:
        raise Missing(str(error)) from error


def fill(side: Side, ground: Ground, url: str, jobs: int, kind: str = "noop", first: int = 0) -> None:
    """So many jobs waiting."""
    try:
        do(side, ground, url, "defer", jobs=jobs, how="bulk", kind=kind, first=first)
    except Missing:
        do(side, ground, url, "defer", jobs=jobs, how="flight", kind=kind, first=first)


def per_job(before: Mapping[str, float], after: Mapping[str, float], jobs: int) -> dict[str, float]:
    """What the server did for each."""
    return {name: (after[name] - before[name]) / jobs for name in before}


def versions(side: Side) -> dict[str, str]:
    """Of what a side stands on; empty if that is unknown."""
    command = [*command_of(side.environment, side.program), '{"role":"versions","url":""}']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return {}
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])["versions"]
    return found
