"""The backends that real processes are killed on, and how long a run is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

LONG = "TASKQ_TEST_LONG" in os.environ


@pytest.fixture(params=["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A queue of the test's own, for any number of processes."""
    match request.param:
        case "sqlite":
            return f"sqlite:///{tmp_path / 'taskq.db'}"
        case unknown:
            raise ValueError(unknown)


@pytest.fixture
def rounds() -> Callable[[int, int], int]:
    """A number for every day, and the one that the issues name."""
    return lambda sample, full: full if LONG else sample


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Print what a run has shown; a run at full size keeps it in ``docs/reports/``."""

    def keep(name: str, text: str) -> None:
        print(text)  # noqa: T201 shown with -s or a failure
        if LONG:
            path = request.config.rootpath / "docs" / "reports" / f"{name}.md"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return keep
