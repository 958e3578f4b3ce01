"""What a task inherits from its queue, and what a queue's defaults may not be."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskq import App, Retry, Tasks, current
from taskq.cli.effective import effective
from taskq.config import load_config
from taskq.errors import ConfigError, UnknownTask
from taskq.job import Job
from taskq.tasks import make_task

pytestmark = pytest.mark.anyio

SOME_DAY = datetime(2999, 1, 1, tzinfo=UTC)


def app_with(defaults: dict[str, Any], **settings: Any) -> App:
    return App("memory://", defaults=defaults, **settings)


async def nothing(_name: str = "") -> None: ...


def said_of(app: App, **options: Any) -> dict[str, tuple[object, str]]:
    """What counts for a task of the queue mail with these options."""
    task = app.registry.add(make_task(nothing, {"name": "nothing", "queue": "mail", **options}))
    return {each.option: (each.value, each.source) for each in effective(app, task)}


def test_a_task_inherits_from_its_queue_then_from_all_queues_then_from_the_settings() -> None:
    app = app_with(
        {"*": {"timeout": 1.0, "max_losses": 4, "keep": 7.0, "priority": 1}, "mail": {"timeout": 2.0, "keep": 8.0}},
        keep=6.0,
        keep_dead=5.0,
    )
    found = said_of(app, keep=9)

    assert found["keep"] == (9.0, "task")
    assert found["timeout"] == (2.0, "defaults.mail.timeout (App(...))")
    assert found["max_losses"] == (4, "defaults.*.max_losses (App(...))")
    assert found["priority"] == (1, "defaults.*.priority (App(...))")
    assert found["keep_dead"] == (5.0, "setting keep_dead (App(...))")
    assert found["on_dead"] == (None, "default")


@pytest.mark.parametrize(
    ("option", "inherited", "own", "shown"),
    [
        ("priority", 5, 0, 0),
        ("expires_in", 60.0, 1, 1.0),
        ("timeout", 60.0, 1, 1.0),
        ("soft_timeout", 60.0, 1, 1.0),
        ("idle_timeout", 60.0, 1, 1.0),
        ("retry", 3, Retry(15), 15),
        ("max_losses", 9, 3, 3),
        ("keep", 60.0, 0, 0.0),
        ("keep_dead", 60.0, 1, 1.0),
        ("on_dead", "one", "other", "other"),
        ("capture", 60, 0, 0),
    ],
)
def test_what_a_task_says_itself_goes_before_its_queue_even_where_it_says_the_default(
    option: str, inherited: object, own: object, shown: object
) -> None:
    named = "attempts" if option == "retry" else option

    assert said_of(app_with({"mail": {option: inherited}}))[named] == (inherited, f"defaults.mail.{option} (App(...))")
    assert said_of(app_with({"mail": {option: inherited}}), **{option: own})[named] == (shown, "task")
    assert said_of(app_with({"bulk": {option: inherited}}))[named][1] == "default"


def test_a_call_goes_before_all_of_them() -> None:
    app = app_with({"mail": {"priority": 5, "expires_in": 60.0}})
    task = app.task(name="nothing", queue="mail")(nothing)

    def job(**options: Any) -> Job:
        return task.options(**options).call().job

    assert (job().priority, job().expires_in) == (5, 60.0)
    assert (job(priority=0).priority, job(expires_in=1).expires_in) == (0, 1.0)
    # Whichever of two that exclude each other was said last.
    assert job(expires_at=SOME_DAY).expires_in is None


def test_a_variant_that_was_made_before_its_task_had_an_app_inherits_as_well() -> None:
    tasks = Tasks()
    task = tasks.task(name="nothing", queue="mail")(nothing)
    plain, urgent, dated = task.options(tenant="a"), task.options(priority=0), task.options(expires_at=SOME_DAY)
    app_with({"mail": {"priority": 5, "expires_in": 60.0}}).include(tasks)

    assert (plain.call().job.priority, urgent.call().job.priority) == (5, 0)
    assert (plain.call().job.expires_in, dated.call().job.expires_in) == (60.0, None)


@pytest.mark.parametrize("inherited", ["soft_timeout", "idle_timeout"])
def test_a_call_whose_time_out_is_over_before_what_its_queue_says_is_refused(inherited: str) -> None:
    tasks = Tasks()
    task = tasks.task(name="nothing", queue="mail")(nothing)
    early = task.options(timeout=10)
    app_with({"mail": {inherited: 60.0}}).include(tasks)

    for call in (early.call, lambda: task.options(timeout=10)):
        with pytest.raises(ConfigError, match=rf"give a longer timeout=, or the task a shorter {inherited}="):
            call()
    assert task.options(timeout=61).call().job.headers


def test_what_makes_no_sense_for_a_task_is_not_inherited() -> None:
    app = app_with({"mail": {"retry": 5, "expires_in": 60.0}})

    assert said_of(app, delivery="at_most_once")["attempts"] == (1, "task")


@pytest.mark.usefixtures("clock")
async def test_a_worker_goes_by_what_a_queue_says() -> None:
    app = app_with({"mail": {"retry": 2, "timeout": 60.0}})
    attempts: list[int] = []

    @app.task(queue="mail", idempotent=True)
    async def sleep() -> None:
        attempts.append(current().attempt)
        await anyio.sleep_forever()

    async with app:
        await sleep.defer()
        await app.run_worker(until="empty")

    assert attempts == [1, 2]


def test_a_queue_that_no_task_is_on_is_a_warning() -> None:
    app = app_with({"mial": {"timeout": 5.0}, "zzz": {}, "*": {}})
    app.task(name="nothing", queue="mail")(nothing)
    told = [(each.subject, each.message) for each in app.check() if each.subject.startswith("defaults")]

    assert told == [
        ("defaults.mial", "no task is on this queue: did you mean 'mail'?"),
        ("defaults.zzz", "no task is on this queue: nothing to do if it is another app's"),
    ]


async def test_an_on_dead_that_names_no_task_is_refused_when_the_app_opens() -> None:
    app = app_with({"mail": {"on_dead": "buried"}})
    app.task(name="nothing", queue="mail")(nothing)

    with pytest.raises(UnknownTask, match=r"setting 'defaults\.mail\.on_dead': no task .* 'buried' \(known: nothing\)"):
        async with app:
            pass


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("retires = 5", r"unknown setting 'defaults\.mail\.retires' \(taskq\.toml\); did you mean 'retry'\?"),
        ("zzz = 5", r"unknown setting 'defaults\.mail\.zzz' \(taskq\.toml\); known: priority, expires_in, timeout"),
        ("retry = 0", r"setting 'defaults\.mail\.retry' \(taskq\.toml\): Expected `int` >= 1"),
        ("timeout = -1", r"setting 'defaults\.mail\.timeout' \(taskq\.toml\): Expected `float` >= 0"),
        ("expires_in = inf", r"setting 'defaults\.mail\.expires_in': give seconds; left out, nothing expires"),
        ("timeout = '5'", r"setting 'defaults\.mail\.timeout' \(taskq\.toml\): Expected `float \| null`, got `str`"),
        ("capture = 9999999", r"setting 'defaults\.mail\.capture' \(taskq\.toml\): Expected `int` <= 1048576"),
        ("priority = 4294967296", r"setting 'defaults\.mail\.priority' \(taskq\.toml\): Expected `int` <= 2147483647"),
    ],
)
def test_an_unfit_default_is_refused_with_its_path(tmp_path: Path, table: str, says: str) -> None:
    (tmp_path / "taskq.toml").write_text(f"[defaults.mail]\n{table}\n", encoding="utf-8")

    with pytest.raises(ConfigError, match=says):
        load_config({}, {}, tmp_path)


def test_the_environment_may_say_them_as_json_and_no_queue_is_called_so(tmp_path: Path) -> None:
    config = load_config({}, {"TASKQ_DEFAULTS": '{"*": {"retry": 3}}'}, tmp_path)

    assert config.settings.defaults["*"].retry == 3
    with pytest.raises(ConfigError, match="defaults of queue 'no spaces': its name is made of"):
        load_config({"defaults": {"no spaces": {}}}, {}, tmp_path)
