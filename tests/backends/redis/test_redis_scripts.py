"""The Lua files: each is used, says what it does, and takes the keys it says."""

import re
from importlib.resources import files

import pytest
from taskq_redis.keys import NAMES, Keys
from taskq_redis.scripts import FLAGS, Scripts, load, preludes

from tests.backends.redis.deployment import command, strangers
from tests.servers.process import Process

FOLDER = files("taskq_redis") / "lua"
SCRIPTS = list(Scripts.__struct_fields__)


def text(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text("utf-8")


def test_every_file_is_a_script_or_stands_before_some() -> None:
    found = {path.name.removesuffix(".lua") for path in FOLDER.iterdir()}
    assert found == {*SCRIPTS, *(part for name in SCRIPTS for part in preludes(name))}
    assert set(FLAGS) <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_does_and_returns_and_names_its_keys_and_arguments(name: str) -> None:
    head = "\n".join(line for line in text(name).splitlines() if line.startswith("--"))
    assert re.match(r"-- [A-Z]\w+s .*returns", head, re.DOTALL), head
    assert "-- KEYS: " in head
    assert ("-- ARGV" in head) == ("ARGV" in text(name).replace(head, ""))


def test_the_keys_of_a_queue_are_those_the_scripts_name_in_their_order() -> None:
    head = text("moves").partition("local ")[0]
    assert tuple(re.findall(r"^--   (\w+)\s+(?:hash|zset|string)", head, re.MULTILINE)) == NAMES
    assert len(Keys("n").queue("q")) == int(re.findall(r"local WIDTH = (\d+)", text("moves"))[0])
    taken = re.findall(r"(\w+) = KEYS\[k \+ (\d+)\]", text("moves"))
    assert [(name, int(at)) for name, at in taken] == [(name, at) for at, name in enumerate(NAMES, 1)]


def test_all_keys_of_a_queue_share_one_hash_tag() -> None:
    assert {key.partition(b"}")[0] for key in Keys("n").queue("q")} == {b"{n:q"}


def test_a_key_that_is_called_as_nothing_of_ours_is_noticed_when_a_shared_server_ends(own_redis: Process) -> None:
    keys = Keys("n", 2)
    for key in (*keys.queue("q#1"), *keys.queue("{a}:\n"), *keys.entry("limit:a/b")):
        command(own_redis, "SET", key, 1)
    assert not strangers(own_redis)
    for key in (b"{n:q}:rows", b"{n/k}:row", b"n:q:row", b"{n:q}"):
        command(own_redis, "SET", key, 1)
    assert len(strangers(own_redis)) == 4


def test_only_adding_jobs_is_refused_by_a_full_server() -> None:
    scripts = load()
    for name in SCRIPTS:
        first = getattr(scripts, name).text.partition(b"\n")[0]
        adds = name in ("enqueue", "enqueue_one", "enqueue_plain")
        assert first in ({b"#!lua"} if adds else {b"#!lua flags=allow-oom", b"#!lua flags=no-writes"})
