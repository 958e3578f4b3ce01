"""Which queues a pool takes, in which order, and what is refused of pools before anything runs."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from taskq.config import load_config
from taskq.errors import ConfigError
from taskq.pools import PoolSettings, Selection, check_takers, in_turn, selection_of, warnings_of

KNOWN = ("bulk", "mail", "mail-de", "mail-fr", "mail-slow", "web")


@pytest.mark.parametrize(
    ("patterns", "takes"),
    [
        (["web", "mail"], ["web", "mail"]),
        (["later"], ["later"]),
        (["mail-*"], ["mail-de", "mail-fr", "mail-slow"]),
        (["mail-*", "!mail-slow"], ["mail-de", "mail-fr"]),
        (["!*-slow", "*"], ["bulk", "mail", "mail-de", "mail-fr", "web"]),
        (["*", "mail-slow", "!mail-*"], ["bulk", "mail", "web", "mail-slow"]),
        (["web", "mail-??", "*"], ["web", "mail-de", "mail-fr", "bulk", "mail", "mail-slow"]),
        (["none-*"], []),
    ],
)
def test_names_globs_and_exclusions_are_taken_in_the_order_given(patterns: list[str], takes: list[str]) -> None:
    assert list(Selection(patterns).among(KNOWN)) == takes


def test_each_queue_goes_first_as_often_as_its_weight_says() -> None:
    weights = Selection(["bulk", "mail-*"], {"bulk": 6, "mail-*": 1}).among(KNOWN)
    chance, firsts, n = random.Random(1).random, Counter[str](), 9_000
    for _ in range(n):
        order = in_turn(weights, chance)
        assert sorted(order) == sorted(weights)
        firsts[order[0]] += 1
    # Four standard deviations.
    for queue, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(firsts[queue] - n * share) < 4 * (n * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        ({"b": {"queues": ["web"]}, "a": {}}, "setting 'pools.a' (App(...)): Object missing required field `queues`"),
        ({"a": {"queues": []}}, "pool 'a': it takes no queue: name some, or '*' for all"),
        ({"a": {"queues": ["!mail"]}}, "pool 'a': it takes no queue"),
        ({"a": {"queues": ["mail"], "slots": 0}}, "setting 'pools.a.slots' (App(...)): Expected `int` >= 1"),
        (
            {"a": {"queues": ["mail"], "weights": {"mail": 0}}},
            "setting 'pools.a.weights[...]' (App(...)): Expected `int` >= 1",
        ),
        ({"a": {"queues": ["mail"], "weights": {"mail": 0.5}}}, "Expected `int`, got `float`"),
        ({"a": {"queues": ["mail"], "weights": {"web": 2}}}, "weights name 'web', which is not among its queues"),
        ({"a": {"queues": ["mail"], "targets": {"web": 2}}}, "targets name 'web', which is not among its queues"),
        ({"a": {"queues": ["mail"], "targets": {"mail": -1}}}, "Expected `float` >= 0"),
        (
            {"a": {"queues": ["mail"], "weights": {"mail": 2}, "targets": {"mail": 5}}},
            "pool 'a': weights and targets both say which queue goes first: drop one of them",
        ),
        ({"a": {"queues": ["mail"], "slot": 2}}, "unknown setting 'pools.a.slot' (App(...)); did you mean 'slots'?"),
        ({"a": {"queues": ["mail"], "executor": "loop"}}, "Invalid enum value 'loop'"),
        ({"a": {"queues": ["ma/il"]}}, "pool 'a': 'ma/il' fits no queue: write a queue's name, a glob"),
        ({"a": {"queues": ["ma/*"]}}, "'ma/*' fits no queue"),
        ({"a": {"queues": ["mail", "mail"]}}, "'mail' is there twice"),
        ({"a": {"queues": ["mail", "!mail"]}}, "takes 'mail' and leaves it out"),
        ({"a b": {"queues": ["mail"]}}, "pool 'a b': its name is made of"),
        ({"a": {"queues": ["mail"]}, "b": {"queues": ["mail"]}}, "pools 'a' and 'b' both take queue 'mail'"),
        ({"a": {"queues": ["mail"]}, "b": {"queues": ["*"]}}, "with '!mail' among the queues of the other"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused_with_its_remedy(
    tmp_path: Path, pools: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"pools": pools}, {}, tmp_path)
    assert says in str(caught.value)


def test_pools_are_tables_of_the_file_and_exclude_queues(tmp_path: Path) -> None:
    (tmp_path / "taskq.toml").write_text('[pools.fast]\nqueues = ["mail", "web-*"]\nslots = 7\nweights = {mail = 3}\n')
    settings = load_config({}, {}, tmp_path).settings
    assert settings.pools == {"fast": PoolSettings(queues=("mail", "web-*"), slots=7, weights={"mail": 3})}
    with pytest.raises(ConfigError, match=r"'queues' \(environment\) and 'pools' \(taskq.toml\) both say"):
        load_config({}, {"TASKQ_QUEUES": "mail"}, tmp_path)


def test_two_globs_that_take_in_one_queue_of_a_task_are_refused() -> None:
    pools = {"a": PoolSettings(queues=("mail-*",)), "b": PoolSettings(queues=("*-slow", "web"))}
    check_takers(pools, ["mail-de", "web"])
    with pytest.raises(ConfigError, match="pools 'a' and 'b' both take queue 'mail-slow'"):
        check_takers(pools, ["mail-slow"])


def test_a_queue_that_two_globs_take_in_is_the_first_pools() -> None:
    pools = {"a": PoolSettings(queues=("mail-*", "!mail-x")), "b": PoolSettings(queues=("*-slow", "mail-x", "mail-y*"))}
    first, second = (selection_of(name, pools) for name in pools)
    known = ["mail-slow", "sms-slow", "mail-x", "mail-y1"]
    assert [*first.among(known)] == ["mail-slow", "mail-y1"]
    assert [*second.among(known)] == ["sms-slow", "mail-x"]


def test_a_queue_in_no_pool_and_a_glob_without_a_queue_are_told() -> None:
    pools = {"a": PoolSettings(queues=("mail", "tenant-*"))}
    told = [(finding.subject, finding.level) for finding in warnings_of(pools, ["mail", "web"])]
    assert told == [("queue web", "warning"), ("pool a", "warning")]
    assert not warnings_of({}, ["mail"])
