"""What type checkers reveal: every marked line of a case is an error to each of them, and no other line is."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = sorted((Path(__file__).parent / "cases").glob("*.py"))

Place = tuple[str, int]
"""A file's name and a line."""


def marked() -> set[Place]:
    return {
        (case.name, number)
        for case in CASES
        for number, line in enumerate(case.read_text(encoding="utf-8").splitlines(), 1)
        if line.endswith("  # E")
    }


def run(*command: str | Path) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def by_mypy(directory: Path) -> set[Place]:
    lines = run("mypy", "--output=json", f"--cache-dir={directory}", *CASES).splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return {(Path(error["file"]).name, error["line"]) for error in found if error["severity"] == "error"}


def by_pyright(directory: Path) -> set[Place]:
    # The project's own settings leave the cases out.
    for case in CASES:
        shutil.copy(case, directory)
    (directory / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', encoding="utf-8")
    out = run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", directory)
    found = json.loads(out)["generalDiagnostics"]
    # It counts lines from 0.
    return {(Path(error["file"]).name, error["range"]["start"]["line"] + 1) for error in found}


@pytest.mark.parametrize("found_by", [by_mypy, by_pyright])
def test_each_marked_line_is_an_error_and_no_other(found_by: Callable[[Path], set[Place]], tmp_path: Path) -> None:
    found = found_by(tmp_path)

    assert {"unmarked": sorted(found - marked()), "unnoticed": sorted(marked() - found)} == {
        "unmarked": [],
        "unnoticed": [],
    }


def test_there_are_cases() -> None:
    assert len(marked()) > 40
