"""What a task and a call may say: refused at once when it makes no sense."""

from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any

import pytest

from taskq import Concurrency
from taskq.errors import ConfigError
from taskq.options import CallOptions, Options, TaskOptions, check_option, check_queue, check_task, merge
from taskq.retry import Retry
from taskq.task import Task
from taskq.tasks import make_task

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def merged(**given: Any) -> CallOptions:
    return merge(CallOptions(), given)


async def handler(a: int = 1) -> None: ...
def sync_handler(a: int = 1) -> None: ...


def task(**options: Any) -> Task[..., Any]:
    return make_task(handler, options)


# Unknown ones


@pytest.mark.parametrize(
    ("name", "meant"),
    [("quee", "queue"), ("dely", "delay"), ("uniqe", "unique"), ("time_out", "timeout"), ("runat", "run_at")],
)
def test_an_unknown_option_is_answered_with_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown option '{name}'; did you mean '{meant}'"):
        merged(**{name: 1})
    with pytest.raises(ConfigError, match=f"unknown option '{name}'; did you mean '{meant}'"):
        task(**{name: 1})


def test_an_option_like_no_other_is_answered_with_all_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown option 'zzz'; known: attempts, debounce, delay, expires_at"):
        merged(zzz=1)


def test_a_tasks_own_options_cannot_be_said_by_a_call() -> None:
    for name in TaskOptions.__annotations__.keys() - Options.__annotations__.keys():
        with pytest.raises(ConfigError, match=f"unknown option '{name}'"):
            merged(**{name: 1})


# Conflicts


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"delay": 5, "run_at": NOON}, "delay and run_at contradict each other"),
        ({"expires_in": 5, "expires_at": NOON}, "expires_in and expires_at contradict each other"),
        ({"expires_at": NOON, "run_at": NOON + timedelta(1)}, "expires_at is before run_at"),
        ({"on_conflict": "replace"}, "give unique=, too"),
        ({"unique_until": "start"}, "give unique=, too"),
        ({"unique": False, "on_conflict": "raise"}, "give unique=, too"),
        ({"group_limit": 2}, "give group=, too"),
    ],
)
def test_conflicting_options_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        merged(**given)
    with pytest.raises(ConfigError, match=says):
        task(**given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"id": "x"}, r"id belongs to a single call: use task\.options"),
        ({"tx": object()}, r"tx belongs to a single call: use task\.options"),
        ({"attempts": 3}, r"attempts belongs to a single call: use retry=Retry\(n\)"),
        ({"limits": "10/s"}, "is no limit of a task: give RateLimit and Concurrency"),
        ({"limits": [Concurrency(1), Concurrency(2)]}, "waits in the queue for one Concurrency at most"),
        ({"executor": "thread"}, "coroutines run in the loop, sync functions in a thread or process"),
        ({"on_outage": "lose"}, "choose 'spool' or 'raise' or 'drop'"),
        ({"executor": "process"}, "coroutines run in the loop"),
        ({"timeout": 30, "soft_timeout": 30}, "soft_timeout=30 asks a run to stop that timeout=30 has cancelled"),
        ({"timeout": 30, "idle_timeout": 60}, "timeout=30 is over before idle_timeout=60 could be"),
        ({"idle_timeout": 0}, "would cancel every run at once"),
        ({"timeout": 0}, "would cancel every run at once"),
        ({"soft_timeout": -1}, "soft_timeout=-1: give seconds of at least 0"),
        (
            {"delivery": "at_most_once", "retry": 3},
            "cannot be retried: drop retry= and attempts=",
        ),
    ],
)
def test_what_a_task_cannot_say_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        task(**given)


def test_a_sync_function_runs_in_a_thread_or_a_process_and_not_in_the_loop() -> None:
    assert make_task(sync_handler, {}).definition.executor == "thread"
    assert make_task(sync_handler, {"executor": "process"}).definition.executor == "process"
    with pytest.raises(ConfigError, match="coroutines run in the loop"):
        make_task(sync_handler, {"executor": "loop"})
    with pytest.raises(ConfigError, match="a transaction cannot be handed to another process"):
        make_task(sync_handler, {"executor": "process", "transaction": True})


def test_a_calls_own_time_out_leaves_room_for_its_tasks_soft_one() -> None:
    patient = task(timeout=60, soft_timeout=30)
    assert patient.options(timeout=31).name == patient.name
    with pytest.raises(ConfigError, match="soft_timeout=30 asks a run to stop that timeout=20 has cancelled"):
        patient.options(timeout=20)


def test_a_call_of_a_task_that_runs_at_most_once_cannot_have_attempts() -> None:
    with pytest.raises(ConfigError, match="cannot be retried"):
        task(delivery="at_most_once").options(attempts=3)


# What the last one says counts


def test_a_call_overrides_its_task() -> None:
    base = merge(CallOptions(), {"queue": "mail", "delay": 60, "unique": True, "on_conflict": "raise"})
    call = merge(base, {"run_at": NOON, "on_conflict": "return", "priority": 3})

    assert (call.queue, call.delay, call.run_at, call.priority) == ("mail", 0.0, NOON.timestamp(), 3)
    assert (call.unique, call.on_conflict) == (True, "return")
    assert merge(call, {"delay": 5}).run_at is None
    assert merge(merge(call, {"expires_at": NOON}), {"expires_in": 5}).expires_at is None
    assert merge(merge(call, {"expires_in": 5}), {"expires_at": NOON}).expires_in is None


def test_a_calls_tags_are_added_to_its_tasks_each_once() -> None:
    base = merge(CallOptions(), {"tags": ("bulk", "eu")})

    assert merge(base, {"tags": "vip"}).tags == ("bulk", "eu", "vip")
    assert merge(base, {"tags": ["vip", "bulk"]}).tags == ("bulk", "eu", "vip")
    assert merge(base, {"priority": 1}).tags == ("bulk", "eu")
    with pytest.raises(ConfigError, match="up to 16 texts"):
        merge(base, {"tags": [str(n) for n in range(15)]})


def test_a_variant_leaves_the_task_as_it_was() -> None:
    plain = task(queue="mail")
    variant = plain.options(queue="bulk")

    assert (plain.queue, variant.queue, variant.name) == ("mail", "bulk", plain.name)


# Values that do not fit


@pytest.mark.parametrize("name", ["delay", "expires_in", "timeout", "keep", "keep_dead"])
@pytest.mark.parametrize("value", [-1, -0.5, nan, inf, True, "5", None, timedelta(seconds=-1), 10**400])
def test_times_are_finite_seconds_of_at_least_0(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.*seconds of at least 0, or a timedelta"):
        check_option(name, value)


@pytest.mark.parametrize("value", [90, 90.0, timedelta(minutes=1.5)])
def test_times_are_numbers_or_timedeltas(value: Any) -> None:
    assert check_option("delay", value) == 90.0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("run_at", datetime(2030, 1, 1), r"a datetime with a time zone, as in datetime\.now\(UTC\)"),  # noqa: DTZ001 - what is refused
        ("run_at", 1e9, "a datetime with a time zone"),
        ("expires_at", datetime(2030, 1, 1), "expires_at=.*a datetime with a time zone"),  # noqa: DTZ001 - what is refused
        ("run_at", None, "a datetime with a time zone"),
        ("id", "", "text of 1 to 200 characters"),
        ("id", "x" * 201, "text of 1 to 200 characters"),
        ("id", 5, "text of 1 to 200 characters"),
        ("id", "\ud800", "text of 1 to 200 characters"),
        ("tenant", "a\0b", "text of 1 to 200 characters"),
        ("tags", "two words", "up to 16 texts of 1 to 64 characters, without white space and commas"),
        ("tags", ["a", "b,c"], "without white space and commas"),
        ("tags", [""], "1 to 64 characters"),
        ("tags", ["x" * 65], "1 to 64 characters"),
        ("tags", ["a\0b"], "1 to 64 characters"),
        ("tags", [str(n) for n in range(17)], "up to 16 texts"),
        ("tags", 5, "up to 16 texts"),
        ("tags", [5], "up to 16 texts"),
        ("priority", 1.5, "a whole number of 32 bits; larger runs first"),
        ("priority", True, "a whole number of 32 bits"),
        ("priority", 2**31, "a whole number of 32 bits"),
        ("on_conflict", "ignore", "choose 'return' or 'replace' or 'raise'"),
        ("on_conflict", ["return"], "choose 'return' or"),
        ("unique_until", "never", "seconds of at least 0"),
        ("unique", "", "give True, a key of 1 to 500 characters, or a tuple of argument names"),
        ("unique", "x" * 501, "a key of 1 to 500 characters"),
        ("unique", (), "a tuple of argument names"),
        ("unique", (1, 2), "a tuple of argument names"),
        ("unique", None, "give True"),
        ("group", 5, "give True"),
        ("group", "\ud800", "give True"),
        ("group_limit", 0, "a whole number of at least 1"),
        ("group_limit", 1.0, "a whole number of at least 1"),
        ("attempts", 0, "a whole number of at least 1"),
        ("attempts", True, "a whole number of at least 1"),
        ("headers", 5, "they map text to text"),
        ("headers", {"a": 1}, "they map text to text"),
        ("headers", {1: "a"}, "they map text to text"),
        ("headers", {"a": "\ud800"}, "they map text to text"),
        ("queue", "no spaces", "use up to 64 letters"),
        ("name", "no spaces", "use up to 200 letters"),
        ("delivery", "exactly_once", "choose 'at_least_once' or 'at_most_once'"),
        ("executor", "fiber", "choose 'loop' or 'thread' or 'process'"),
        ("idempotent", "yes", "choose True or False or 'guarded'"),
        ("transaction", "yes", "choose True or False"),
        ("max_losses", 0, "a whole number of at least 1"),
        ("retry", "often", "at least one attempt, as a whole number"),
        ("retry", 0, "at least one attempt"),
        ("retry", True, "at least one attempt"),
        ("middleware", [5], "a list of functions"),
        ("middleware", handler, "a list of functions"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_does(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_option(name, value)


def test_every_option_is_checked() -> None:
    for name in TaskOptions.__annotations__.keys() - {"tx"}:
        with pytest.raises(ConfigError):
            check_option(name, object())


def test_a_number_of_attempts_is_a_retry() -> None:
    assert task(retry=5).definition.policy.retry.attempts == 5
    assert task(retry=Retry.sidekiq()).definition.policy.retry.attempts == 26


def test_names_of_arguments_may_be_a_list() -> None:
    assert merged(unique=["a", "b"]).unique == ("a", "b")


# Names


@pytest.mark.parametrize("name", ["default", "a", "9lives", "mail.bulk-2_x", "x" * 64])
def test_a_queue_may_be_called_so(name: str) -> None:
    assert check_queue(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a{b}", "a:b", "ä", "x" * 65, "a\n", None, 5, b"a"])
def test_a_queue_may_not_be_called_so(name: object) -> None:
    with pytest.raises(ConfigError, match=r"queue name .*: use up to 64 letters, digits"):
        check_queue(name)


@pytest.mark.parametrize("name", ["send", "shop.mail:send", "mod.f.<locals>.g", "größe", "x" * 200])
def test_a_task_may_be_called_so(name: str) -> None:
    assert check_task(name) == name


@pytest.mark.parametrize("name", ["", "1a", "a b", "a/b", "x" * 201, "a\n", None, 5])
def test_a_task_may_not_be_called_so(name: object) -> None:
    with pytest.raises(ConfigError, match=r"task name .*: use up to 200 letters, digits"):
        check_task(name)


def test_a_task_without_a_name_is_called_as_its_function() -> None:
    assert task().name == f"{__name__}.handler"
