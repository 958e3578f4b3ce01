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
SIDEKIQ = "sidekiq:6.5.12"
"""Installed where ruby is there without it."""


class Missing(Exception):
    """A peer that cannot be measured here; the message says why."""


def command_of(environment: str, program: str) -> Sequence[str]:
    """How to run a program of this environment, which is made or brought up to date first; "" is our own.

    Raises Missing with the reason.
    """
    if environment == "node":
        return [str(_node()), str(PEERS / "node" / f"{program}.mjs")]
    if environment == "ruby":
        return [*_ruby(), str(PEERS / "ruby" / f"{program}.rb")]
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


@cache
def _ruby() -> Sequence[str]:
    """With the gem that the system has, or one of our own; compiled as it runs, if this ruby can."""
    ruby, gem = shutil.which("ruby"), shutil.which("gem")
    if ruby is None or gem is None:
        raise Missing("ruby is not found here: apt install ruby-sidekiq")
    os.environ["GEM_HOME"] = str(ENVIRONMENTS / "ruby")
    if not _succeeds(ruby, "-e", "gem 'sidekiq'"):
        with _made("ruby", SIDEKIQ.encode()):
            try:
                _run("sidekiq", gem, "install", "--no-document", SIDEKIQ)
            except Missing as reason:
                raise Missing(f"{reason}; apt install ruby-sidekiq has it, too") from None
    compiled = [ruby, "--yjit", "--yjit-exec-mem-size=16"]  # Its 256 MiB would all count as memory of the peer.
    return compiled if _succeeds(*compiled, "-e", "") else [ruby]


@contextmanager
def _made(name: str, wanted: bytes) -> Generator[bool]:
    """Says whether the environment is as wanted already; what the body made is remembered if it does not raise."""
    stamp, digest = ENVIRONMENTS / name / "made.sha256", hashlib.sha256(wanted).hexdigest()
    fresh = stamp.exists() and stamp.read_text(encoding="ascii") == digest
    if not fresh:
        print(f"  installing {name}", flush=True)
    yield fresh
    stamp.write_text(digest, encoding="ascii")


def _succeeds(*command: str) -> bool:
    return not subprocess.run(command, capture_output=True, check=False).returncode


def _run(name: str, *command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Missing(f"{name} was not installed within {PATIENCE} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or [""]
        raise Missing(f"{name} cannot be installed: {said[-1].strip()}")
