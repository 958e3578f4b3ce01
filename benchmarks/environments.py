"""A virtual environment for each peer, so that no two have to agree on a version of anything."""

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUIREMENTS = Path(__file__).parent / "peers" / "requirements"
ENVIRONMENTS = ROOT / ".venv-bench"
PATIENCE = 300


class Missing(Exception):
    """A peer that cannot be measured here; the message says why."""


@cache
def python_of(name: str) -> Path:
    """The interpreter of the environment of this name, made or brought up to date first; "" is our own.

    Raises Missing with the reason.
    """
    if not name:
        return Path(sys.executable)
    wanted = (REQUIREMENTS / f"{name}.txt").read_bytes()
    place = ENVIRONMENTS / name
    stamp, python = place / "requirements.sha256", place / "bin" / "python"
    digest = hashlib.sha256(wanted + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return python
    print(f"  installing {name}", flush=True)
    _run(name, sys.executable, "-m", "venv", "--clear", "--without-pip", str(place))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check", "--no-input"]
    _run(name, *pip, "install", "--no-deps", "-r", str(REQUIREMENTS / f"{name}.txt"))
    stamp.write_text(digest, encoding="ascii")
    return python


def _run(name: str, *command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise Missing(f"{name} was not installed within {PATIENCE} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or [""]
        raise Missing(f"{name} cannot be installed: {said[-1].strip()}")
