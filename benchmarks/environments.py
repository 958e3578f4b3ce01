"""An environment for each peer, so that no two have to agree on a version of anything."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
REQUIREMENTS = PEERS / "requirements"
ENVIRONMENTS = ROOT / ".venv-bench"
PATIENCE = 300


class Missing(Exception):
    """A peer that cannot be measured here; the message says why."""


def command_of(environment: str, program: str) -> Sequence[str]:
    """How to run a program of this environment, which is made or brought up to date first; "" is our own.

    Raises Missing with the reason.
    """
    if environment == "node":
        return [str(_node()), str(PEERS / "node" / f"{program}.mjs")]
    return [str(_python(environment)), "-m", f"benchmarks.peers.{program}"]


@cache
def _python(name: str) -> Path:
    if not name:
        return Path(sys.executable)
    wanted, place = REQUIREMENTS / f"{name}.txt", ENVIRONMENTS / name
    python = place / "bin" / "python"
    with _made(name, wanted.read_bytes() + sys.version.encode()) as fresh:
        if not fresh:
            _run(name, sys.executable, "-m", "venv", "--clear", "--without-pip", str(place))
            quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
            pip = [sys.executable, "-m", "pip", "--python", str(python), *quiet]
            _run(name, *pip, "install", "--no-deps", "-r", str(wanted))
    return python


@cache
def _node() -> Path:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("node is not found here")
    place = ENVIRONMENTS / "node"
    with _made("node", (PEERS / "node" / "package-lock.json").read_bytes()) as fresh:
        if not fresh:
            place.mkdir(parents=True, exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(PEERS / "node" / name, place)
            # Not `ci`: it wants even the optional packages of other platforms, which an index may lack.
            _run("node", npm, "install", "--prefix", str(place), "--ignore-scripts", "--no-fund", "--no-audit")
    os.environ["BENCH_NODE"] = str(place)
    return Path(node)


@contextmanager
def _made(name: str, wanted: bytes) -> Generator[bool]:
    """Says whether the environment is as wanted already; what the body made is remembered if it does not raise."""
    stamp, digest = ENVIRONMENTS / name / "made.sha256", hashlib.sha256(wanted).hexdigest()
    fresh = stamp.exists() and stamp.read_text(encoding="ascii") == digest
    if not fresh:
        print(f"  installing {name}", flush=True)
    yield fresh
    stamp.write_text(digest, encoding="ascii")


def _run(name: str, *command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Missing(f"{name} was not installed within {PATIENCE} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or [""]
        raise Missing(f"{name} cannot be installed: {said[-1].strip()}")
