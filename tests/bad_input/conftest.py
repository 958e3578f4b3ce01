"""Where bad input is tried: on both embedded backends, and on one that promises less."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an app may open an empty queue."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'taskq.db'}"


@pytest.fixture
def weaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``weaker://`` answers, found by its entry point as every backend is."""
    metadata = tmp_path / "taskq_weaker-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: taskq-weaker\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(
        "[taskq.backends]\nweaker = tests.bad_input.weaker:connect\n", encoding="utf-8"
    )
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path), *sys.path])
        yield
