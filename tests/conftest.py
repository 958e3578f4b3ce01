"""For every test: async tests run on asyncio."""

import os
import signal
from collections.abc import Callable

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
            path = request.config.rootpath / "docs" / "reports" / f"{name}.md"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return keep
