"""From a URL to a backend, or to an error that says what to install or to write."""

import sys
from pathlib import Path

import pytest

from taskq.connect import connect
from taskq.errors import ConfigError, UnknownScheme


@pytest.mark.parametrize("url", ["", "taskq.db", "sqlite:/taskq.db", "redis"])
def test_what_is_no_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is no URL; write something like sqlite:///taskq\.db"):
        connect(url)


def test_an_unknown_scheme_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownScheme, match=r"no backend answers to rabbit:// \(installed: .*memory.*sqlite.*\)"):
        connect("rabbit://localhost")


def test_a_backend_whose_driver_is_missing_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installed package of somebody else's would be: its metadata says where, its module asks for a driver."""
    metadata = tmp_path / "taskq_elsewhere-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: taskq-elsewhere\nVersion: 1\n"
        "Requires-Dist: a_driver_nobody_has[fast]>=2; extra == 'far'\n",
        encoding="utf-8",
    )
    (metadata / "entry_points.txt").write_text(
        "[taskq.backends]\nelsewhere = taskq_elsewhere:connect\n", encoding="utf-8"
    )
    (tmp_path / "taskq_elsewhere.py").write_text("import a_driver_nobody_has\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    said = r"elsewhere:// needs a package .*a_driver_nobody_has.*; pip install 'taskq-elsewhere\[far\]'"
    with pytest.raises(ConfigError, match=said) as caught:
        connect("elsewhere://there")
    assert isinstance(caught.value.__cause__, ImportError)
