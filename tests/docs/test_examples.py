"""Every example of the documentation runs and prints what the page says."""

import re
from pathlib import Path

import pytest

import taskq
import taskq.testing
from tests.docs.pages import ROOT, Wrong, run

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


NEWCOMERS = {"README.md", "docs/index.md", "docs/tutorial.md", "docs/guides/idempotency.md"}
"""Pages without an example that runs would be no pages."""


@pytest.mark.parametrize("name", [str(page.relative_to(ROOT)) for page in PAGES])
def test_a_page_shows_what_happens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    ran = run((ROOT / name).read_text(encoding="utf-8"), name)

    assert ran or name not in NEWCOMERS


@pytest.mark.parametrize(
    "page",
    [
        "```python\nprint(1)\n#> 2\n```\n",
        "```python\nprint(1)\n```\n",
        "```python\nimport asyncio\nawait asyncio.sleep(0)\nprint(1)\n#> 2\n```\n",
        "```console\n$ echo 1\n2\n```\n",
        "```console\n$ exec no-such-command\n```\n",
    ],
)
def test_a_page_that_shows_what_does_not_happen_is_noticed(page: str) -> None:
    with pytest.raises(Wrong):
        run(page, "page.md")


def test_a_page_that_raises_is_noticed() -> None:
    with pytest.raises(ZeroDivisionError):
        run("```python\n1 / 0\n```\n", "page.md")


def test_every_public_name_has_its_place_in_the_reference() -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    documented = set(re.findall(r"^::: (\S+)$", reference, re.MULTILINE))

    missing = [
        f"{package.__name__}.{name}"
        for package in (taskq, taskq.testing)
        for name in package.__all__
        if not {getattr(package, name).__module__, f"{getattr(package, name).__module__}.{name}"} & documented
    ]

    assert not missing


def test_every_page_can_be_reached_from_the_navigation() -> None:
    """The builder warns of links that lead nowhere, not of pages that nothing leads to."""
    linked = set(re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))

    assert linked == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


def test_the_architecture_has_a_place_for_every_module() -> None:
    text = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    _, _, part = text.partition("## Where is what")
    named = re.findall(r"`(\w+)`", part.partition("## Floors")[0])
    modules = [path.stem for path in (ROOT / "taskq").iterdir() if path.is_dir() or path.suffix == ".py"]

    assert sorted(named) == sorted(name for name in modules if not name.startswith("__"))
