"""For every test: async tests run on asyncio, and what must not be skipped is not."""

import os
import platform
import signal
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that is marked ``unskipped`` fails when it is skipped."""
    report = yield
    if report.skipped and item.get_closest_marker("unskipped") is not None:
        report.outcome, report.longrepr = "failed", f"skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """What a shell puts into the background ignores SIGINT, and so would the programs that tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Print what a run has shown; a run at full size keeps it in ``docs/reports/``."""

    def keep(name: str, text: str) -> None:
        print(text)  # noqa: T201 shown with -s or a failure
        if "TASKQ_TEST_LONG" in os.environ:
            path = _kept(request, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return keep


@pytest.fixture
def row(
    request: pytest.FixtureRequest, report: Callable[[str, str], None]
) -> Callable[[str, str, Mapping[str, object]], None]:
    """As report, one row of a table that several tests write: those of the others stay."""

    def keep(name: str, head: str, cells: Mapping[str, object]) -> None:
        path = _kept(request, name)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = {line.split(" | ")[0]: line for line in lines if line.startswith("| test_")}
        rows[f"| {request.node.name}"] = " | ".join([f"| {request.node.name}", *map(str, cells.values())]) + " |"
        titles = " | ".join(["| test", *cells]) + " |\n|---|" + "---:|" * len(cells)
        shown = "\n".join(rows[test] for test in sorted(rows))
        foot = f"Written by `make test-long`, Python {platform.python_version()}."
        report(name, f"{head}\n\n{titles}\n{shown}\n\n{foot}\n")

    return keep


def _kept(request: pytest.FixtureRequest, name: str) -> Path:
    return request.config.rootpath / "docs" / "reports" / f"{name}.md"
