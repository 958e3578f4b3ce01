"""Settings: who is heard first, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from taskq.config import Config, Settings, load_config
from taskq.errors import ConfigError


def load(directory: Path, environ: dict[str, str] | None = None, **given: Any) -> Config:
    return load_config(given, environ or {}, directory)


def write(directory: Path, taskq: str | None = None, pyproject: str | None = None) -> None:
    if taskq is not None:
        (directory / "taskq.toml").write_text(taskq, encoding="utf-8")
    if pyproject is not None:
        (directory / "pyproject.toml").write_text(pyproject, encoding="utf-8")


def test_without_any_word_the_defaults_hold(tmp_path: Path) -> None:
    config = load(tmp_path)

    assert config.settings == Settings()
    assert config.settings.url == "sqlite:///taskq.db"
    assert set(config.sources) == set(Settings.__struct_fields__)
    assert set(config.sources.values()) == {"default"}


def test_the_first_found_wins_and_each_source_is_told(tmp_path: Path) -> None:
    write(
        tmp_path,
        taskq="slots = 2\nlease = 2.0\ngrace = 2\n",
        pyproject="[tool.taskq]\nslots = 1\nlease = 1\ngrace = 1\nthreads = 1\n",
    )
    config = load(tmp_path, {"TASKQ_SLOTS": "3", "TASKQ_LEASE": "3"}, slots=4)

    settings = config.settings
    assert (settings.slots, settings.lease, settings.grace, settings.threads) == (4, 3.0, 2.0, 1)
    assert [config.sources[name] for name in ("slots", "lease", "grace", "threads", "url")] == [
        "App(...)",
        "environment",
        "taskq.toml",
        "[tool.taskq] in pyproject.toml",
        "default",
    ]


def test_the_environment_is_text_and_converted(tmp_path: Path) -> None:
    environ = {
        "TASKQ_URL": "memory://",
        "TASKQ_QUEUES": "mail,bulk,",
        "TASKQ_KEEP": "0.5",
        "TASKQ_STRICT": "true",
        "TASKQ_ON_LOST_CONTACT": "finish",
        "TASKQ_SOMEBODY_ELSES": "x",
    }
    settings = load(tmp_path, environ).settings

    assert settings.queues == ("mail", "bulk")
    assert (settings.url, settings.keep, settings.strict, settings.on_lost_contact) == (
        "memory://",
        0.5,
        True,
        "finish",
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"slot": 5}, r"unknown setting 'slot' \(App\(\.\.\.\)\); did you mean 'slots'"),
        ({"zzz": 5}, r"unknown setting 'zzz' .*; known: url, companion, queues, slots"),
        ({"slots": 0}, r"setting 'slots' \(App\(\.\.\.\)\): Expected `int` >= 1"),
        ({"slots": "5"}, "setting 'slots' .*: Expected `int`, got `str`"),
        ({"slots": 1.5}, "setting 'slots' .*: Expected `int`"),
        ({"lease": 0}, "setting 'lease' .*: Expected `float` > 0"),
        ({"grace": -1}, "setting 'grace' .*: Expected `float` >= 0"),
        ({"url": 5}, "setting 'url' .*: Expected `str`, got `int`"),
        ({"queues": "mail"}, "setting 'queues' .*: Expected `array`, got `str`"),
        ({"queues": ["no spaces"]}, "setting 'queues' .*fits no queue"),
        ({"queues": ["mail\n"]}, "setting 'queues' .*fits no queue"),
        ({"on_lost_contact": "panic"}, "setting 'on_lost_contact' .*: Invalid enum value 'panic'"),
        ({"strict": "yes"}, "setting 'strict' .*: Expected `bool`"),
    ],
)
def test_an_unfit_setting_is_refused_with_its_name_and_source(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, **given)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"TASKQ_SLOTS": "many"}, r"setting 'slots' \(environment\): Expected `int`"),
        ({"TASKQ_SLOTS": ""}, r"setting 'slots' \(environment\)"),
        ({"TASKQ_QUEUES": "mail,no spaces"}, r"setting 'queues' \(environment\): 'no spaces' fits no queue"),
    ],
)
def test_an_unfit_word_in_the_environment_is_refused(tmp_path: Path, environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, environ)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("taskq.toml", "slots = ", r"taskq\.toml: "),
        ("taskq.toml", "slot = 5", r"unknown setting 'slot' \(taskq\.toml\); did you mean 'slots'"),
        ("taskq.toml", "slots = '5'", r"setting 'slots' \(taskq\.toml\): Expected `int`, got `str`"),
        ("pyproject.toml", "[tool.taskq", r"pyproject\.toml: "),
        ("pyproject.toml", "[tool.taskq]\nlease = -1", r"setting 'lease' \(\[tool\.taskq\] in pyproject\.toml\)"),
        ("pyproject.toml", "tool = 5", r"pyproject\.toml: tool has to be a table of settings"),
        ("pyproject.toml", "[tool]\ntaskq = 5", r"pyproject\.toml: taskq has to be a table of settings"),
        ("pyproject.toml", "[[tool.taskq]]\nslots = 5", r"pyproject\.toml: taskq has to be a table of settings"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match=says):
        load(tmp_path)


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "taskq.toml").write_bytes(b"url = '\xff'")

    with pytest.raises(ConfigError, match=r"taskq\.toml: "):
        load(tmp_path)


def test_other_tables_of_pyproject_are_somebody_elses(tmp_path: Path) -> None:
    write(tmp_path, pyproject="[tool.ruff]\nline-length = 120\n[project]\nname = 'shop'\n")

    assert load(tmp_path).settings == Settings()
