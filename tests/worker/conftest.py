"""Where the line is tested: on memory and SQLite, and under a virtual clock for who asks for ``clock``."""

from pathlib import Path
from typing import Any

import pytest

from taskq.testing import VirtualClock
from tests.worker.tap import Tap


@pytest.fixture
def clock(taskq_clock: VirtualClock) -> VirtualClock:
    """A test that takes it runs under it."""
    return taskq_clock


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if "clock" in request.fixturenames:
        clock: VirtualClock = request.getfixturevalue("clock")
        return "asyncio", {"loop_factory": clock.make_loop}
    return "asyncio", {}


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A backend of its own for each test: what is promised of one is promised of all."""
    if request.param == "memory":
        return "memory://"
    pytest.importorskip("taskq_sqlite")
    return f"sqlite:///{tmp_path}/taskq.db"


@pytest.fixture
def tap(monkeypatch: pytest.MonkeyPatch) -> Tap:
    """Between each app that is opened from now on and its backend."""
    tap = Tap()
    monkeypatch.setattr("taskq.opening.connect", tap.connect)
    return tap
